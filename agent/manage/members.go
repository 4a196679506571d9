package manage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// members answers who etcd's members are (bootspec.RouteEtcdMembers).
func (s *Server) members(w http.ResponseWriter, r *http.Request) {
	var list struct {
		Members []struct {
			ID       string
			Name     string
			PeerURLs []string
			Learner  bool `json:"isLearner"`
		}
	}
	if !s.askMembers(w, r, "list", struct{}{}, &list) {
		return
	}
	answer := []bootspec.EtcdMember{}
	for _, m := range list.Members {
		answer = append(answer, bootspec.EtcdMember{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, Learner: m.Learner})
	}
	s.answer(w, answer)
}

// removeMember removes one (bootspec.RouteEtcdRemove).
func (s *Server) removeMember(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	if _, err := strconv.ParseUint(id, 10, 64); err != nil {
		http.Error(w, "id is not the number of a member", http.StatusBadRequest)
		return
	}
	s.node.Log.Warn("an operator removes a member of etcd", "id", id)
	if s.askMembers(w, r, "remove", map[string]string{"ID": id}, &struct{}{}) {
		s.answer(w, struct{}{})
	}
}

// memberLimit is how long etcd may take. It waits without end for a change that went to a leader which has just been removed.
const memberLimit = 10 * time.Second

// askMembers asks etcd's JSON gateway; what goes wrong is the answer.
func (s *Server) askMembers(w http.ResponseWriter, r *http.Request, verb string, question, answer any) bool {
	if s.node.Role != controlPlane {
		http.Error(w, s.node.Name+" has no etcd: ask a control plane", http.StatusNotFound)
		return false
	}
	ctx, cancel := context.WithTimeout(r.Context(), memberLimit)
	defer cancel()
	if err := s.askEtcd(ctx, "/v3/cluster/member/"+verb, question, answer); err != nil {
		http.Error(w, "cannot "+verb+" etcd's members: "+err.Error(), http.StatusBadGateway)
		return false
	}
	return true
}

// askEtcd asks etcd's JSON gateway.
func (s *Server) askEtcd(ctx context.Context, route string, question, answer any) error {
	client, err := s.etcdClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.node.EtcdClient+route, bytes.NewReader(body))
	if err != nil {
		return err
	}
	reply, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("etcd does not answer: %w", err)
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(io.LimitReader(reply.Body, maxMetrics))
	if err != nil {
		return err
	}
	if reply.StatusCode != http.StatusOK {
		var why struct{ Message string }
		if json.Unmarshal(data, &why) == nil && why.Message != "" {
			return errors.New(strings.TrimPrefix(why.Message, "etcdserver: "))
		}
		return fmt.Errorf("etcd answers %s", reply.Status)
	}
	return json.Unmarshal(data, answer)
}

// answer sends JSON.
func (s *Server) answer(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = newSender(w).Write(append(data, '\n'))
}
