package rack

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// monitor speaks the QEMU Machine Protocol with a machine: a greeting, qmp_capabilities, then commands, whose answers
// come among events.
type monitor struct {
	conn    net.Conn
	answers *json.Decoder
}

// monitorAnswers is how long QEMU may take for one answer.
const monitorAnswers = 5 * time.Second

// openMonitor waits for QEMU to make its socket.
func openMonitor(ctx context.Context, socket string) (*monitor, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*monitorAnswers)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			m := &monitor{conn: conn, answers: json.NewDecoder(conn)}
			if err = m.greet(); err == nil {
				return m, nil
			}
			conn.Close()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot reach QEMU at %s: %w", socket, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (m *monitor) greet() error {
	var greeting struct {
		QMP json.RawMessage `json:"QMP"`
	}
	m.conn.SetDeadline(time.Now().Add(monitorAnswers))
	if err := m.answers.Decode(&greeting); err != nil || greeting.QMP == nil {
		return fmt.Errorf("no greeting (%w)", err)
	}
	return m.execute("qmp_capabilities")
}

// execute sends a command without arguments and waits until QEMU has carried it out.
func (m *monitor) execute(command string) error {
	_, err := m.ask(command)
	return err
}

// ask is execute for commands that answer something.
func (m *monitor) ask(command string) (json.RawMessage, error) {
	m.conn.SetDeadline(time.Now().Add(monitorAnswers))
	if _, err := fmt.Fprintf(m.conn, `{"execute": %q}`+"\n", command); err != nil {
		return nil, err
	}
	for {
		var answer struct {
			Return json.RawMessage               `json:"return"`
			Error  *struct{ Class, Desc string } `json:"error"`
		}
		switch err := m.answers.Decode(&answer); {
		case err != nil:
			return nil, err
		case answer.Error != nil:
			return nil, fmt.Errorf("QEMU refuses %s: %s", command, answer.Error.Desc)
		case answer.Return != nil:
			return answer.Return, nil
		}
	}
}

// powerOff takes the machine's power away. There is nothing on it to lose: no disk, no state.
func (m *machine) powerOff() {
	if m.process == nil || !m.running() {
		return
	}
	if m.monitor == nil || m.monitor.execute("quit") != nil {
		m.cmd.Process.Kill()
	}
}

// wait waits until the machine is off.
func (m *machine) wait() error {
	if m.process == nil {
		return nil
	}
	m.ends(stopGrace)
	if m.monitor != nil {
		m.monitor.conn.Close()
	}
	return m.stop(0)
}
