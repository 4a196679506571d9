package manage

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// maxMetrics bounds etcd's metrics in bytes; they are about 200 KiB.
const maxMetrics = 4 << 20

// etcd asks the node's etcd how it is, by the listener for that (--listen-metrics-urls): it needs no certificate and answers
// without a quorum too.
func (s *Server) etcd(ctx context.Context) *bootspec.EtcdStatus {
	e := &bootspec.EtcdStatus{Restored: s.restored()}
	metrics, err := get(ctx, s.node.EtcdMetrics+"/metrics")
	if err != nil {
		e.Reason = err.Error()
		return e
	}
	e.Answers = true
	readMetrics(e, metrics)
	var health struct{ Health, Reason string }
	body, err := get(ctx, s.node.EtcdMetrics+"/health")
	if err == nil {
		err = json.Unmarshal(body, &health)
	}
	if err != nil {
		e.Reason = err.Error()
		return e
	}
	e.Healthy, e.Reason = health.Health == "true", health.Reason
	return e
}

// get asks on the loopback. etcd answers 503 with a reason when it isn't healthy.
func get(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("etcd does not answer: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusServiceUnavailable {
		return nil, fmt.Errorf("etcd answers %s", answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, maxMetrics))
}

// readMetrics reads what is wanted of Prometheus' text format: lines NAME VALUE.
func readMetrics(e *bootspec.EtcdStatus, metrics []byte) {
	for line := range strings.Lines(string(metrics)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "etcd_server_has_leader":
			e.HasLeader = n == 1
		case "etcd_server_is_learner":
			e.Learner = n == 1
		case "etcd_server_is_leader":
			e.Leader = n == 1
		case "etcd_mvcc_db_total_size_in_bytes":
			e.Size = int64(n)
		case "etcd_mvcc_db_total_size_in_use_in_bytes":
			e.InUse = int64(n)
		}
	}
}

// maxPiece bounds a piece of a snapshot as etcd's gateway sends it, in bytes of JSON; etcd sends 32 KiB of data at a time.
const maxPiece = 1 << 20

// snapshot sends a snapshot of the node's etcd. Nothing is kept on the node.
func (s *Server) snapshot(w http.ResponseWriter, r *http.Request) {
	if s.node.Role != controlPlane {
		http.Error(w, s.node.Name+" has no etcd: ask a control plane", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	out := newSender(w)
	if err := s.take(r.Context(), out); err != nil {
		s.node.Log.Warn("cannot send a snapshot of etcd: " + err.Error())
		if out.sent == 0 {
			http.Error(w, "cannot take a snapshot: "+err.Error(), http.StatusBadGateway)
			return
		}
		panic(http.ErrAbortHandler) // the client must not take what it has for all
	}
}

// take writes a snapshot of the node's etcd. etcd's JSON gateway is asked, so that no gRPC is needed here.
func (s *Server) take(ctx context.Context, w io.Writer) error {
	client, err := s.etcdClient()
	if err != nil {
		return fmt.Errorf("cannot ask etcd: %w", err)
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.node.EtcdClient+"/v3/maintenance/snapshot", strings.NewReader("{}"))
	if err != nil {
		return fmt.Errorf("cannot ask etcd: %w", err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("cannot ask etcd: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd answers %s", answer.Status)
	}
	return unwrap(w, answer.Body)
}

// unwrap writes the bytes of a snapshot from the gateway's stream of JSON lines.
func unwrap(w io.Writer, r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxPiece)
	left := "none"
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var piece struct {
			Result *struct {
				Left string `json:"remaining_bytes"` // a number; 0 is left out
				Blob []byte `json:"blob"`
			} `json:"result"`
			Error json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(lines.Bytes(), &piece); err != nil {
			return fmt.Errorf("etcd's answer is wrong: %w", err)
		}
		if piece.Result == nil {
			return fmt.Errorf("etcd says %.300s", piece.Error)
		}
		left = piece.Result.Left
		if _, err := w.Write(piece.Result.Blob); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("etcd's answer is wrong: %w", err)
	}
	if left != "" && left != "0" {
		return errors.New("etcd's answer breaks off")
	}
	return nil
}

// etcdClient speaks with the node's etcd with the API server's certificate.
func (s *Server) etcdClient() (*http.Client, error) {
	certificate, err := tls.LoadX509KeyPair(s.pki("etcd/apiserver-client.crt"), s.pki("etcd/apiserver-client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(s.pki("etcd/ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("etcd's authority is no certificate")
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{certificate}},
		ResponseHeaderTimeout: 30 * time.Second,
	}}, nil
}
