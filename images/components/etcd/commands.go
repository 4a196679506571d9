package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/slipway-os/slipway/images/components/etcd/guard"
)

// commands are the subcommands by name.
func commands() map[string]func(ctx context.Context, args []string) error {
	return map[string]func(ctx context.Context, args []string) error{
		"guard": guardCommand, "restore": restoreCommand, "set-aside": asideCommand, "decide": decideCommand,
		"drill": drillCommand, "bucket": bucketCommand,
	}
}

// run is slipway-etcd: what a control plane does around etcd.
func run(ctx context.Context, args []string) error {
	if len(args) == 0 || commands()[args[0]] == nil {
		return errors.New("usage: slipway-etcd guard|restore|set-aside|decide|drill|bucket [flags]")
	}
	return commands()[args[0]](ctx, args[1:])
}

// guardCommand decides how etcd starts, and tells systemd when that is decided.
func guardCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("slipway-etcd guard", flag.ContinueOnError)
	name := flags.String("name", "", "this node's name")
	cluster := flags.String("initial-cluster", "", "all members, NAME=https://ADDRESS:PORT[,...]")
	data := flags.String("data-dir", "/var/lib/etcd", "etcd's data folder")
	environment := flags.String("environment", "/run/slipway/etcd.env", "file to write for etcd.service")
	group := flags.String("cgroup", "/sys/fs/cgroup/system.slice/etcd.service", "etcd's control group, to end etcd when its cluster was restored elsewhere")
	files := certificates(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	peers, err := guard.ParsePeers(*cluster)
	if err != nil {
		return err
	}
	config, err := files.load()
	if err != nil {
		return err
	}
	return guard.Run(ctx, guard.Config{
		Name: *name, Peers: peers, Data: *data, Environment: *environment, TLS: config, Pause: time.Second, Watch: 10 * time.Second,
		Stop: func(ctx context.Context) error { return endAll(ctx, *group) },
		Say: func(words string) {
			fmt.Println(words)
			_, _ = daemon.SdNotify(false, "STATUS="+words)
		},
		Ready: func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) },
	})
}

// tlsFiles are a member's certificate and the authority of all.
type tlsFiles struct{ authority, certificate, key *string }

func certificates(flags *flag.FlagSet) tlsFiles {
	const pki = "/etc/kubernetes/pki/etcd/"
	return tlsFiles{
		flags.String("ca", pki+"ca.crt", "authority of all members"),
		flags.String("cert", pki+"peer.crt", "this member's certificate"),
		flags.String("key", pki+"peer.key", "its key"),
	}
}

// load makes mutual TLS of the files: both sides show a certificate of the authority.
func (f tlsFiles) load() (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(*f.certificate, *f.key)
	if err != nil {
		return nil, fmt.Errorf("cannot read this member's certificate: %w", err)
	}
	text, err := os.ReadFile(*f.authority)
	if err != nil {
		return nil, fmt.Errorf("cannot read etcd's authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("cannot read etcd's authority: there is no certificate in %s", *f.authority)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{own}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}
