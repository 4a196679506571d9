package manage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/slipway-os/slipway/agent/renewal"
	"github.com/slipway-os/slipway/images/bootspec"
)

// rereading are the units that read certificates or the cluster document when they start, in the order in which a renewal
// restarts them. etcd and this API read certificates at every handshake; etcd reads authorities only when it starts.
func rereading() []string {
	return []string{
		"slipway-etcd-guard.service", "slipway-api.service", "kube-apiserver.service", "kube-controller-manager.service", "kube-scheduler.service",
		"slipway-addons.service", "flanneld.service", "kube-proxy.service", "kubelet.service",
	}
}

// unitLimit bounds one unit's restart.
const unitLimit = 5 * time.Minute

// renewals is the present renewal, or the last one of this boot.
type renewals struct {
	sync.Mutex
	status *bootspec.RenewalStatus // nil: there was none
}

// renew takes a newer configuration (bootspec.RouteRenew). One at a time; units are restarted after the answer.
func (s *Server) renew(w http.ResponseWriter, r *http.Request) {
	s.renewals.Lock()
	defer s.renewals.Unlock()
	if st := s.renewals.status; st != nil && st.Fault == "" && len(st.Left) > 0 {
		http.Error(w, "a renewal is under way already", http.StatusConflict)
		return
	}
	document, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bootspec.MaxConfig))
	if err != nil {
		http.Error(w, "cannot renew this node: "+err.Error(), http.StatusBadRequest)
		return
	}
	plan, err := renewal.Check(s.node.Root, document, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	done := bootspec.Renewed{Files: plan.Files, Later: plan.Later, Until: plan.Until}
	if done.Kept, err = s.keepConfig(document); err == nil {
		err = plan.Write()
	}
	if err != nil {
		s.node.Log.Warn(err.Error())
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.node.Log.Info("configuration renewed", "files", len(done.Files), "until", done.Until)
	s.replan()
	s.renewals.status = &bootspec.RenewalStatus{At: time.Now().UTC(), Left: s.toRestart(r.Context(), plan.Etcd())}
	go s.restartAll(context.WithoutCancel(r.Context()))
	s.answer(w, done)
}

// keepConfig writes the configuration where the node's came from, if that was a medium.
func (s *Server) keepConfig(document []byte) (string, error) {
	data, err := os.ReadFile(filepath.Join(s.node.Root, bootspec.BootRecord))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	var record bootspec.BootState
	if err == nil {
		err = json.Unmarshal(data, &record)
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the boot record: %w", err)
	}
	if record.Config == "" {
		return "", nil
	}
	return record.Config, renewal.Keep(filepath.Join(s.node.Root, record.Config), document)
}

// toRestart are the units that the node has, with etcd or without.
func (s *Server) toRestart(ctx context.Context, etcd bool) []string {
	wanted := rereading()
	if etcd {
		wanted = slices.Insert(wanted, 1, "etcd.service") // after its guard
	}
	states, err := s.node.Control.Units(ctx, s.node.Target)
	if err != nil {
		return wanted // restartAll says what is wrong
	}
	var list []string
	for _, name := range wanted {
		for _, u := range states {
			if u.Name == name {
				list = append(list, name)
			}
		}
	}
	return list
}

// restartAll restarts one unit after the other, and keeps account of it.
func (s *Server) restartAll(ctx context.Context) {
	for {
		s.renewals.Lock()
		st := s.renewals.status
		if len(st.Left) == 0 {
			s.renewals.Unlock()
			return
		}
		unit := st.Left[0]
		s.renewals.Unlock()
		limit, cancel := context.WithTimeout(ctx, unitLimit)
		err := s.node.Control.RestartAndWait(limit, unit)
		cancel()
		s.renewals.Lock()
		if err != nil {
			s.node.Log.Warn("renewal: " + err.Error())
			st.Fault = err.Error()
			s.renewals.Unlock()
			return
		}
		st.Left = slices.Clone(st.Left[1:])
		s.renewals.Unlock()
	}
}

// renewal is how far the last one is.
func (s *Server) renewal() *bootspec.RenewalStatus {
	s.renewals.Lock()
	defer s.renewals.Unlock()
	if s.renewals.status == nil {
		return nil
	}
	st := *s.renewals.status
	return &st
}
