package power

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// ipmi asks a controller by the program ipmitool (IPMI 2.0, RMCP+), once for each question. The password is in its environment, which only
// root and its owner see, and not among its arguments, which everybody does.
type ipmi struct {
	arguments []string
	password  string
	bios      bool
}

// Limits of ipmitool, in seconds and tries, and of one call.
const (
	ipmiTimeout = "2"
	ipmiRetries = "4"
	ipmiLimit   = 45 * time.Second
)

func openIPMI(m Machine) (Controller, error) {
	if _, err := exec.LookPath("ipmitool"); err != nil {
		return nil, fmt.Errorf("IPMI needs the program ipmitool (apt-get install ipmitool): %w", err)
	}
	host, port := m.IPMI, "623"
	if h, p, err := net.SplitHostPort(m.IPMI); err == nil {
		host, port = h, p
	}
	c := &ipmi{password: m.Password, bios: m.BIOS, arguments: []string{"-I", "lanplus", "-H", host, "-p", port, "-U", m.User, "-E", "-N", ipmiTimeout, "-R", ipmiRetries}}
	if m.CipherSuite != 0 {
		c.arguments = append(c.arguments, "-C", strconv.Itoa(m.CipherSuite))
	}
	return c, nil
}

func (c *ipmi) run(ctx context.Context, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, ipmiLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ipmitool", append(c.arguments[:len(c.arguments):len(c.arguments)], arguments...)...)
	cmd.Env = append(os.Environ(), "IPMI_PASSWORD="+c.password, "LC_ALL=C")
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("cannot ask the controller: %w", ctx.Err())
	case err != nil:
		lines := strings.Split(strings.TrimSpace(words.String()), "\n")
		text := lines[len(lines)-1] // the others are of its tries
		if text == "" {
			text = err.Error()
		}
		return "", fmt.Errorf("cannot ask the controller: ipmitool %s: %s", strings.Join(arguments, " "), text)
	}
	return strings.TrimSpace(string(out)), nil
}

func (c *ipmi) On(ctx context.Context) (bool, error) {
	out, err := c.run(ctx, "chassis", "power", "status")
	if err != nil {
		return false, err
	}
	on, known := map[string]bool{"Chassis Power is on": true, "Chassis Power is off": false}[out]
	if !known {
		return false, fmt.Errorf("the controller says of its machine's power: %.100q", out)
	}
	return on, nil
}

func (c *ipmi) State(ctx context.Context) (State, error) {
	on, err := c.On(ctx)
	if err != nil {
		return State{}, err
	}
	s := State{On: on}
	if next, err := c.run(ctx, "chassis", "bootparam", "get", "5"); err == nil {
		s.Next = nextSource(next)
	}
	return s, nil
}

// nextSource reads the boot flags as ipmitool tells them (IPMI 2.0, table 28-14, parameter 5).
func nextSource(text string) Source {
	if !strings.Contains(text, "Boot Flag Valid") || strings.Contains(text, "Options apply to all future boots") {
		return ""
	}
	for words, s := range map[string]Source{
		"Force PXE": Network, "Force Boot from default Hard-Drive": Disk, "Force Boot from CD/DVD": CD,
	} {
		if strings.Contains(text, words) {
			return s
		}
	}
	return ""
}

func (c *ipmi) Power(ctx context.Context, a Action) error {
	on, err := c.On(ctx)
	if err != nil {
		return err
	}
	var word string
	switch {
	case a == On && on, (a == Off || a == ForceOff) && !on:
		return nil
	case a == On, a == Cycle && !on:
		word = "on"
	case a == Off:
		word = "soft"
	case a == ForceOff:
		word = "off"
	case a == Cycle:
		word = "cycle"
	default:
		return fmt.Errorf("%q is no action", a)
	}
	_, err = c.run(ctx, "chassis", "power", word)
	return err
}

func (c *ipmi) BootNext(ctx context.Context, source Source) error {
	word, ok := map[Source]string{Network: "pxe", Disk: "disk", CD: "cdrom", Default: "none"}[source]
	if !ok {
		return fmt.Errorf("%q is nothing to boot from", source)
	}
	arguments := []string{"chassis", "bootdev", word}
	if source != Default && !c.bios {
		arguments = append(arguments, "options=efiboot")
	}
	_, err := c.run(ctx, arguments...)
	return err
}

// errNoMedia is of what IPMI doesn't have.
var errNoMedia = fmt.Errorf("%w: IPMI has no virtual media (use Redfish, or a stick)", ErrUnsupported)

func (c *ipmi) Insert(context.Context, string) error { return errNoMedia }

func (c *ipmi) Eject(context.Context) error { return errNoMedia }

func (c *ipmi) Close() {}
