package netboot

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Warning is something that an operator should know now. It holds nothing that the network may not know.
type Warning struct {
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
	Last  time.Time `json:"last"`
}

// Warnings are what an operator should know now, as far as this server sees it.
func (s *Server) Warnings() []Warning {
	out := append([]Warning{}, s.stale()...)
	out = append(out, s.sisters.warnings()...)
	for _, r := range s.rivals.list() {
		out = append(out, Warning{fmt.Sprintf("another DHCP server answers on this network: %s (%s)", r.Address, orUnknown(r.MAC)), r.First, r.Last})
	}
	for _, n := range s.Nodes() {
		if c := n.Claim; n.Name != "" && c != nil && c.Refused > 0 {
			out = append(out, Warning{
				fmt.Sprintf("%d claims of the configuration of %s were refused, the last from %s: another machine has its MAC address (if it is the right one: slipway arm %s)", c.Refused, n.Name, c.RefusedFrom, n.Name),
				c.LastRefused, c.LastRefused,
			})
		}
	}
	return out
}

func orUnknown(mac string) string {
	if mac == "" {
		return "its hardware address is not known"
	}
	return mac
}

// Rivals are the other DHCP servers that were seen lately.
func (s *Server) Rivals() []Rival { return s.rivals.list() }

// serveWarnings answers bootspec.RouteWarnings.
func (s *Server) serveWarnings(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(s.Warnings())
}
