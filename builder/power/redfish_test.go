package power

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// double is a controller that speaks Redfish as DMTF's published example of a rack-mounted server does (DSP2043, public-rackmount1, in
// testdata with its licence), with what changes when it is asked to. There is no emulator that Debian or Go's mirrors have.
type double struct {
	*httptest.Server
	mu       sync.Mutex
	power    string
	boot     map[string]any
	image    string
	sessions map[string]bool
	stubborn bool // the operating system does not end when it is asked
	able     []any
	asked    []string // what changes, in order
}

const (
	prefix = "/redfish/v1"
	system = prefix + "/Systems/437XR1138R2"
	cd     = system + "/VirtualMedia/CD1"
	token  = "0123456789abcdef"
)

func newDouble(t *testing.T) *double {
	t.Helper()
	d := &double{power: "Off", sessions: map[string]bool{}, boot: map[string]any{}}
	d.Server = httptest.NewUnstartedServer(http.HandlerFunc(d.serve))
	d.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes
	d.StartTLS()
	t.Cleanup(func() {
		d.Close()
		if len(d.sessions) > 0 {
			t.Errorf("%d sessions were left open", len(d.sessions))
		}
	})
	return d
}

func (d *double) fingerprint() string {
	sum := sha256.Sum256(d.Certificate().Raw)
	return hex.EncodeToString(sum[:])
}

func (d *double) machine() Machine {
	return Machine{Redfish: d.URL, Fingerprint: d.fingerprint(), Login: Login{"root", "secret"}}
}

func (d *double) serve(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := strings.TrimSuffix(r.URL.Path, "/")
	body, _ := io.ReadAll(r.Body)
	var said map[string]any
	_ = json.Unmarshal(body, &said)
	fail := func(code int, words string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": "Base.1.8.GeneralError", "message": words}})
	}
	if at != prefix && !(r.Method == http.MethodPost && at == prefix+"/SessionService/Sessions") && !d.sessions[r.Header.Get("X-Auth-Token")] {
		fail(http.StatusUnauthorized, "no valid session")
		return
	}
	if r.Method != http.MethodGet && !strings.Contains(at, "Sessions") {
		d.asked = append(d.asked, r.Method+" "+strings.TrimPrefix(at, prefix)+" "+string(bytes.TrimSpace(body)))
	}
	switch key := r.Method + " " + at; {
	case key == "POST "+prefix+"/SessionService/Sessions":
		if said["UserName"] != "root" || said["Password"] != "secret" {
			fail(http.StatusUnauthorized, "no")
			return
		}
		d.sessions[token] = true
		w.Header().Set("X-Auth-Token", token)
		w.Header().Set("Location", prefix+"/SessionService/Sessions/1")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte("{}"))
	case key == "DELETE "+prefix+"/SessionService/Sessions/1":
		delete(d.sessions, r.Header.Get("X-Auth-Token"))
		w.WriteHeader(http.StatusNoContent)
	case key == "PATCH "+system:
		maps.Copy(d.boot, said["Boot"].(map[string]any))
		w.WriteHeader(http.StatusNoContent)
	case key == "POST "+system+"/Actions/ComputerSystem.Reset":
		switch said["ResetType"] {
		case "On", "ForceRestart", "PowerCycle":
			d.power = "On"
		case "ForceOff":
			d.power = "Off"
		case "GracefulShutdown":
			if !d.stubborn {
				d.power = "Off"
			}
		default:
			fail(http.StatusBadRequest, "no such reset")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case key == "POST "+cd+"/Actions/VirtualMedia.InsertMedia":
		if d.image != "" {
			fail(http.StatusConflict, "there is a medium already")
			return
		}
		d.image = said["Image"].(string)
		w.WriteHeader(http.StatusNoContent)
	case key == "POST "+cd+"/Actions/VirtualMedia.EjectMedia":
		d.image = ""
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodGet:
		d.get(w, r, at)
	default:
		fail(http.StatusMethodNotAllowed, "not here")
	}
}

// get answers with the published example, and the present state in it.
func (d *double) get(w http.ResponseWriter, r *http.Request, at string) {
	text, err := os.ReadFile(filepath.Join("testdata/redfish", path.Clean("/"+strings.TrimPrefix(at, prefix)), "index.json"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		panic(err)
	}
	switch at {
	case system:
		object["PowerState"] = d.power
		boot := object["Boot"].(map[string]any)
		boot["BootSourceOverrideEnabled"], boot["BootSourceOverrideTarget"] = "Disabled", "None"
		maps.Copy(boot, d.boot)
		if d.able != nil {
			object["Actions"].(map[string]any)["#ComputerSystem.Reset"].(map[string]any)["ResetType@Redfish.AllowableValues"] = d.able
		}
	case cd:
		object["Image"], object["Inserted"] = d.image, d.image != ""
		object["Actions"] = map[string]any{
			"#VirtualMedia.InsertMedia": map[string]any{"target": cd + "/Actions/VirtualMedia.InsertMedia"},
			"#VirtualMedia.EjectMedia":  map[string]any{"target": cd + "/Actions/VirtualMedia.EjectMedia"},
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object)
}

func open(t *testing.T, m Machine) Controller {
	t.Helper()
	c, err := Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (d *double) did(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(d.asked, want) {
		t.Errorf("asked:\n%s\nwant:\n%s", strings.Join(d.asked, "\n"), strings.Join(want, "\n"))
	}
	d.asked = nil
}

func is(t *testing.T, c Controller, want State) {
	t.Helper()
	if s, err := c.State(t.Context()); err != nil || s != want {
		t.Errorf("got %+v, %v; want %+v", s, err, want)
	}
}

func TestRedfish(t *testing.T) {
	d := newDouble(t)
	c := open(t, d.machine())
	const reset = "POST /Systems/437XR1138R2/Actions/ComputerSystem.Reset "
	is(t, c, State{Model: "Contoso 3500"})
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	do(c.BootNext(t.Context(), Network))
	do(c.Power(t.Context(), Cycle))
	d.did(t, `PATCH /Systems/437XR1138R2 {"Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe"}}`, reset+`{"ResetType":"On"}`)
	is(t, c, State{On: true, Next: Network, Model: "Contoso 3500"})
	do(c.Power(t.Context(), On))
	d.did(t) // it is on
	do(c.Power(t.Context(), Cycle))
	d.did(t, reset+`{"ResetType":"ForceRestart"}`) // what is published can't cycle
	do(c.Power(t.Context(), Off))
	do(Await(t.Context(), c, false))
	do(c.Power(t.Context(), ForceOff))
	d.did(t, reset+`{"ResetType":"GracefulShutdown"}`)
	do(c.BootNext(t.Context(), Default))
	is(t, c, State{Model: "Contoso 3500"})

	d.able = []any{"On", "ForceOff"}
	d.power = "On"
	if err := c.Power(t.Context(), Off); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "it can [On ForceOff]") {
		t.Errorf("got %v", err)
	}
}

func TestRedfishMedia(t *testing.T) {
	d := newDouble(t)
	c := open(t, d.machine())
	for _, image := range []string{"http://10.1.0.1/a.iso", "http://10.1.0.1/a.iso", "http://10.1.0.1/b.iso"} {
		if err := c.Insert(t.Context(), image); err != nil {
			t.Fatal(err)
		}
		is(t, c, State{Model: "Contoso 3500", Media: image})
	}
	for range 2 {
		if err := c.Eject(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	const at = "POST /Systems/437XR1138R2/VirtualMedia/CD1/Actions/VirtualMedia."
	d.did(t, at+`InsertMedia {"Image":"http://10.1.0.1/a.iso","Inserted":true,"WriteProtected":true}`, at+"EjectMedia {}",
		at+`InsertMedia {"Image":"http://10.1.0.1/b.iso","Inserted":true,"WriteProtected":true}`, at+"EjectMedia {}")
}

// TestRedfishRefuses: whom a controller's certificate and words are believed, and what is said when not. The password is in no error.
func TestRedfishRefuses(t *testing.T) {
	d := newDouble(t)
	for name, c := range map[string]struct {
		change func(*Machine)
		want   string
	}{
		"a certificate of nobody's": {func(m *Machine) { m.Fingerprint = "" }, "nobody vouches for the controller at " + d.URL + ": .*write fingerprint: " + d.fingerprint()},
		"another certificate":       {func(m *Machine) { m.Fingerprint = strings.Repeat("ab", 32) }, "shows another certificate than the document says: " + d.fingerprint()},
		"another password":          {func(m *Machine) { m.Password = "secret2" }, "it answers 401: it refuses the user or the password"},
		"nobody there":              {func(m *Machine) { m.Redfish = "https://127.0.0.1:1" }, "cannot reach the controller at https://127.0.0.1:1: .*connection refused"},
		"no password":               {func(m *Machine) { m.Password = "" }, "user or password is missing"},
	} {
		m := d.machine()
		c.change(&m)
		_, err := Open(t.Context(), m)
		if err == nil || !matches(c.want, err.Error()) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	m := d.machine()
	m.System = "other"
	if _, err := open(t, m).State(t.Context()); err == nil || !strings.Contains(err.Error(), `the controller has 1 machines, ["437XR1138R2"]: write which one is meant as system`) {
		t.Errorf("got %v", err)
	}
}

// TestAwaitEnds: a machine whose operating system doesn't end is not waited for beyond the deadline.
func TestAwaitEnds(t *testing.T) {
	d := newDouble(t)
	d.power, d.stubborn = "On", true
	c := open(t, d.machine())
	if err := c.Power(t.Context(), Off); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextWithTimeout(t, 10*time.Millisecond)
	defer cancel()
	if err := Await(ctx, c, false); err == nil || !strings.Contains(err.Error(), "the machine is not off: it is still on") {
		t.Errorf("got %v", err)
	}
}
