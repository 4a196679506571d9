package cluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-os/slipway/profiles/cluster"
)

const recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"

func withBackup(backup string) string {
	return strings.Replace(string(cluster.Lab()), "provisioning:", "etcd: {backup: "+backup+"}\nprovisioning:", 1)
}

// TestBackup: what is left out has defaults, and only control planes keep snapshots.
func TestBackup(t *testing.T) {
	c, err := cluster.Parse("lab.yaml", []byte(withBackup("{recipients: ["+recipient+"]}")))
	if err != nil {
		t.Fatal(err)
	}
	plane, _ := c.Node("cp-1")
	worker, _ := c.Node("worker-1")
	if got, want := fmt.Sprint(*c.EtcdBackup(plane)), "{3600 24 ["+recipient+"] /var/lib/slipway/etcd-backup []}"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if c.EtcdBackup(worker) != nil {
		t.Error("a worker keeps snapshots")
	}
}

// TestBackupTargets: where snapshots are pushed to.
func TestBackupTargets(t *testing.T) {
	c, err := cluster.Parse("lab.yaml", []byte(withBackup("{recipients: ["+recipient+"], to: [{directory: /srv/copies}, {server: true}]}")))
	if err != nil {
		t.Fatal(err)
	}
	plane, _ := c.Node("cp-1")
	var got []string
	for _, to := range c.EtcdBackup(plane).To {
		got = append(got, to.String())
	}
	if want := "directory /srv/copies, the boot server at 10.1.0.1:7445"; strings.Join(got, ", ") != want || c.Depot() != "10.1.0.1:7445" {
		t.Errorf("got %q, depot %q", got, c.Depot())
	}
}

func TestBackupFaults(t *testing.T) {
	const secret = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
	for _, tt := range []struct{ name, backup, want string }{
		{"no recipient", "{every: 1h}", "a recipient is missing"},
		{"typing error", "{recipients: [" + strings.Replace(recipient, "54pw", "54pv", 1) + "]}", "is not an age recipient"},
		{"secret key", "{recipients: [" + secret + "]}", "this is a secret key"},
		{"too often", "{every: 10s, recipients: [" + recipient + "]}", "10s is out of range"},
		{"no interval", "{every: daily, recipients: [" + recipient + "]}", `"daily" is not an interval`},
		{"none kept", "{keep: 0, recipients: [" + recipient + "]}", "0 is out of range"},
		{"elsewhere", "{directory: /etc/x, recipients: [" + recipient + "]}", `"/etc/x" is not a folder below /var`},
		{"nowhere", "{recipients: [" + recipient + "], to: [{}]}", "etcd.backup.to[0]: it has not one place"},
		{"two in one", "{recipients: [" + recipient + "], to: [{server: true, directory: /srv/a}]}", "it has not one place"},
		{"twice", "{recipients: [" + recipient + "], to: [{server: true}, {server: true}]}", "etcd.backup.to[1]: snapshots are there already"},
		{"where they are", "{recipients: [" + recipient + "], directory: /srv/a, to: [{directory: /srv/a}]}", "snapshots are there already"},
		{"pushed elsewhere", "{recipients: [" + recipient + "], to: [{directory: /home/a}]}", "etcd.backup.to[0].directory: \"/home/a\" is not a folder below /var"},
		{"a bucket in the clear", "{recipients: [" + recipient + "], to: [{s3: {endpoint: 'http://s3.example.com', bucket: etcd, credentials: k.ini}}]}", "\"http://s3.example.com\" is not the address of a store"},
		{"a bucket's name", "{recipients: [" + recipient + "], to: [{s3: {endpoint: 'https://s3.example.com', bucket: Etcd, credentials: k.ini}}]}", "\"Etcd\" is not the name of a bucket"},
		{"a bucket's prefix", "{recipients: [" + recipient + "], to: [{s3: {endpoint: 'https://s3.example.com', bucket: etcd, prefix: /a/, credentials: k.ini}}]}", "\"/a/\" is no prefix of names"},
		{"a bucket without keys", "{recipients: [" + recipient + "], to: [{s3: {endpoint: 'https://s3.example.com', bucket: etcd}}]}", "etcd.backup.to[0].s3.credentials: is missing"},
		{"keys from elsewhere", "{recipients: [" + recipient + "], to: [{s3: {endpoint: 'https://s3.example.com', bucket: etcd, credentials: ../k.ini}}]}", "is not a path in the document's folder"},
		{"upwards", "{directory: /var/../etc, recipients: [" + recipient + "]}", "is not a folder below /var"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range map[string]string{"lab.yaml": withBackup(tt.backup), "k.ini": "keys"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := cluster.ParseFile(filepath.Join(dir, "lab.yaml"))
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Error("the message repeats the secret key")
			}
		})
	}
}

// TestBuckets: the files that buckets name get to control planes under names of their own, and to nobody else.
func TestBuckets(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"k.ini": "keys", "s.crt": "authority",
		"cluster.yaml": withBackup("{recipients: [" + recipient + "], to: [{server: true}, {s3: {endpoint: 'https://s3.example.com', bucket: etcd, prefix: rack-7/, credentials: k.ini, ca: s.crt}}]}"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := cluster.ParseFile(filepath.Join(dir, "cluster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	plane, _ := c.Node("cp-1")
	b := c.EtcdBackup(plane).To[1].S3
	if b == nil || b.Endpoint != "https://s3.example.com" || b.Bucket != "etcd" || b.Prefix != "rack-7/" {
		t.Fatalf("the node gets %+v", b)
	}
	files := c.BucketFiles()
	if len(files) != 2 || string(files[b.Credentials]) != "keys" || string(files[b.CA]) != "authority" {
		t.Errorf("the node's files are %q, its bucket %+v", files, b)
	}
	if list := c.Buckets(); len(list) != 1 || string(list[0].Keys) != "keys" || string(list[0].Authority) != "authority" {
		t.Errorf("an operator gets %+v", list)
	}
}
