package manage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync"

	"github.com/slipway-os/slipway/agent/backup"
	"github.com/slipway-os/slipway/images/bootspec"
)

// keeping is the keeper of scheduled snapshots, which a renewal may change.
type keeping struct {
	sync.Mutex
	plan   *bootspec.EtcdBackup // nil: there are no scheduled snapshots
	keeper *backup.Keeper
	change chan struct{} // the plan is another one
}

// keep runs the keeper of the present plan until ctx ends.
func (s *Server) keep(ctx context.Context) {
	for ctx.Err() == nil {
		s.keeping.Lock()
		plan := s.keeping.plan
		s.keeping.keeper = nil
		if plan != nil {
			s.keeping.keeper = &backup.Keeper{Plan: *plan, Node: s.node.Name, Take: s.take, Log: s.node.Log, MinFree: minFree, Place: s.place}
		}
		keeper := s.keeping.keeper
		s.keeping.Unlock()
		run, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		if keeper != nil {
			running.Go(func() { keeper.Run(run) })
		}
		select {
		case <-ctx.Done():
		case <-s.keeping.change:
		}
		cancel()
		running.Wait()
	}
}

// replan reads the plan of the node document again.
func (s *Server) replan() {
	data, err := os.ReadFile(filepath.Join(s.node.Root, bootspec.NodeDocument))
	var node bootspec.Node
	if err == nil {
		node, err = bootspec.ParseNode(data)
	}
	if err != nil {
		s.node.Log.Warn("scheduled snapshots stay as they are: " + err.Error())
		return
	}
	s.keeping.Lock()
	defer s.keeping.Unlock()
	if s.node.Role != controlPlane || reflect.DeepEqual(s.keeping.plan, node.EtcdBackup) {
		return
	}
	s.keeping.plan = node.EtcdBackup
	select {
	case s.keeping.change <- struct{}{}:
	default: // keep is on its way to read it
	}
}

// backup is how scheduled snapshots are; nil: there are none.
func (s *Server) backup() *bootspec.BackupStatus {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	if s.keeping.keeper == nil {
		return nil
	}
	status := s.keeping.keeper.Status()
	return &status
}

// place makes a place of a target.
func (s *Server) place(t bootspec.BackupTarget) backup.Place {
	switch {
	case t.Server != "":
		return backup.Depot{Address: t.Server, TLS: s.depotTLS}
	case t.S3 != nil:
		bucket := *t.S3
		bucket.Credentials = filepath.Join(s.node.Root, bucket.Credentials)
		if bucket.CA != "" {
			bucket.CA = filepath.Join(s.node.Root, bucket.CA)
		}
		return backup.Bucket{S3Bucket: bucket, Tool: s.node.EtcdTool}
	}
	return backup.Directory{Path: t.Directory, MinFree: minFree}
}

// depotTLS is this node's certificate and the cluster's authority.
func (s *Server) depotTLS() (*tls.Config, error) {
	own, err := s.certificate()
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(s.pki("ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, errors.New("the cluster's authority is no certificate")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{own}}, nil
}

// directories are where this node's snapshots may lie.
func (s *Server) directories() []string {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	if s.keeping.plan == nil {
		return nil
	}
	list := []string{s.keeping.plan.Directory}
	for _, t := range s.keeping.plan.To {
		if t.Directory != "" {
			list = append(list, t.Directory)
		}
	}
	return list
}

// kept lists the snapshots that this node keeps (bootspec.RouteEtcdKept).
func (s *Server) kept(w http.ResponseWriter, r *http.Request) {
	list := []bootspec.KeptSnapshot{}
	for _, dir := range s.directories() {
		names, err := backup.Directory{Path: dir}.List(r.Context())
		if err != nil {
			http.Error(w, "cannot list snapshots: "+err.Error(), http.StatusInternalServerError)
			return
		}
		for _, name := range names {
			st, err := os.Stat(filepath.Join(dir, name))
			if _, _, ok := bootspec.ParseSnapshotName(name); ok && err == nil {
				list = append(list, bootspec.KeptSnapshot{Name: name, Size: st.Size(), Directory: dir})
			}
		}
	}
	s.answer(w, list)
}

// sendKept sends one of them.
func (s *Server) sendKept(w http.ResponseWriter, r *http.Request) {
	name, dir := r.PathValue("name"), r.URL.Query().Get("directory")
	if _, _, ok := bootspec.ParseSnapshotName(name); !ok || !slices.Contains(s.directories(), dir) {
		http.Error(w, fmt.Sprintf("this node keeps no snapshot %.300q in %.300q", name, dir), http.StatusNotFound)
		return
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		http.Error(w, "cannot read the snapshot: "+err.Error(), http.StatusNotFound)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		http.Error(w, "cannot read the snapshot: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(st.Size(), 10))
	if _, err := io.Copy(newSender(w), f); err != nil {
		s.node.Log.Warn("cannot send a snapshot that is kept: " + err.Error())
		panic(http.ErrAbortHandler) // the client must not take what it has for all
	}
}
