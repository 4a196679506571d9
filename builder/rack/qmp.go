package rack

import (
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// powerOff takes the machine's power away. There is nothing on it to lose: no disk, no state.
func (m *machine) powerOff() {
	if m.process == nil || !m.running() {
		return
	}
	if err := quit(m.qmp); err != nil {
		m.cmd.Process.Kill()
	}
}

// wait waits until the machine is off.
func (m *machine) wait() error {
	if m.process == nil {
		return nil
	}
	m.ends(stopGrace)
	return m.stop(0)
}

// quit tells a QEMU to end through its QMP socket (QEMU Machine Protocol: greeting, qmp_capabilities, then commands).
func quit(socket string) error {
	conn, err := net.DialTimeout("unix", socket, 2*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	var greeting struct {
		QMP json.RawMessage `json:"QMP"`
	}
	if err := json.NewDecoder(conn).Decode(&greeting); err != nil || greeting.QMP == nil {
		return fmt.Errorf("cannot reach QEMU at %s: no greeting (%w)", socket, err)
	}
	_, err = fmt.Fprint(conn, `{"execute": "qmp_capabilities"}`+"\n"+`{"execute": "quit"}`+"\n")
	return err
}
