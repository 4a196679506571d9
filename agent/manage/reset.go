package manage

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/slipway-os/slipway/images/bootspec"
)

// rebootAfter gives the answer the time to reach the operator.
const rebootAfter = time.Second

// reset marks the node's state as to be forgotten and reboots (bootspec.RouteReset).
func (s *Server) reset(w http.ResponseWriter, r *http.Request) {
	if name := r.URL.Query().Get("node"); name != s.node.Name {
		http.Error(w, fmt.Sprintf("this is %s, and not %.60q", s.node.Name, name), http.StatusConflict)
		return
	}
	l := bootspec.LiveStatus{}
	err := kernel(&l)
	if err == nil {
		err = s.mark()
	}
	if err != nil {
		s.node.Log.Warn("cannot reset this node: " + err.Error())
		http.Error(w, "cannot reset this node: "+err.Error(), http.StatusInternalServerError)
		return
	}
	s.node.Log.Warn("this node is reset by an operator: it forgets its state and starts anew")
	s.answer(w, bootspec.Reset{Boot: l.Boot})
	time.AfterFunc(rebootAfter, func() {
		ctx, cancel := context.WithTimeout(context.Background(), unitLimit)
		defer cancel()
		if err := s.node.Control.Reboot(ctx); err != nil {
			s.node.Log.Error(err.Error(), "consequence", "the state is forgotten at the next boot")
		}
	})
}

// mark writes the marker so that it is there after the reboot.
func (s *Server) mark() error {
	folder, err := os.Open(filepath.Join(s.node.Root, "/var"))
	if err != nil {
		return err
	}
	defer folder.Close()
	f, err := os.OpenFile(filepath.Join(folder.Name(), bootspec.ResetMarker), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return folder.Sync()
}
