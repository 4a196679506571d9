// Package power asks machines' management controllers (BMCs) for what the boot server can't do: switching machines on and off, and having
// them boot from the network the next time.
//
// It speaks Redfish (DMTF DSP0266) through gofish, and IPMI 2.0 through the program ipmitool. It knows no cluster document; who may do
// what is the controllers' matter, and passwords come from a file of their own (Credentials).
package power

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Machine is a controller and how to get in. One of Redfish and IPMI is set.
type Machine struct {
	Redfish     string // https://ADDRESS[:PORT]
	System      string // Redfish: the machine's id, where the controller has several; may be empty
	Fingerprint string // Redfish: SHA-256 of the controller's certificate, in hexadecimal digits; empty: the system's authorities decide
	IPMI        string // ADDRESS[:PORT]
	CipherSuite int    // IPMI: 0 is ipmitool's choice
	BIOS        bool   // IPMI: the machine boots by legacy BIOS, not by UEFI
	Login
}

// Login is a user of a controller.
type Login struct{ User, Password string }

// Action is what is done to a machine's power.
type Action string

// Actions.
const (
	On       Action = "on"
	Off      Action = "off"       // the operating system is asked to end
	ForceOff Action = "force-off" // at once
	Cycle    Action = "cycle"     // off and on at once; a machine that is off is switched on
)

// Source is what a machine boots from the next time.
type Source string

// Sources.
const (
	Network Source = "network"
	Disk    Source = "disk"
	CD      Source = "cd" // also a virtual one
	Default Source = "default"
)

// State is what a controller says of its machine.
type State struct {
	On    bool   `json:"on"`
	Next  Source `json:"next,omitempty"`  // what it boots from once; empty: as always, or the controller doesn't say
	Model string `json:"model,omitempty"` // Redfish: maker and model
	Media string `json:"media,omitempty"` // Redfish: image in its virtual CD
}

// Controller is a machine's controller. Its methods take one at a time.
type Controller interface {
	State(ctx context.Context) (State, error)
	// On is of State what is waited for, with less to ask a slow controller.
	On(ctx context.Context) (bool, error)
	// Power asks for an action. What is asked of a machine that is so already succeeds.
	Power(ctx context.Context, a Action) error
	// BootNext has the next boot, and only that, come from there.
	BootNext(ctx context.Context, s Source) error
	// Insert puts an image, by its URL, into the machine's virtual CD, read-only; Eject takes it out.
	Insert(ctx context.Context, image string) error
	Eject(ctx context.Context) error
	// Close ends the session; controllers have few of them.
	Close()
}

// ErrUnsupported says that a controller can't do something at all.
var ErrUnsupported = errors.New("this controller can't do that")

// Open makes a session with a controller. ctx bounds all that the controller is asked.
func Open(ctx context.Context, m Machine) (Controller, error) {
	switch {
	case m.User == "" || m.Password == "":
		return nil, errors.New("the controller's user or password is missing")
	case m.Redfish != "":
		return openRedfish(ctx, m)
	case m.IPMI != "":
		return openIPMI(m)
	}
	return nil, errors.New("the machine has no controller")
}

// Await asks for a machine's power until it is as wanted, or ctx ends.
func Await(ctx context.Context, c Controller, on bool) error {
	words := map[bool]string{true: "on", false: "off"}
	for {
		is, err := c.On(ctx)
		if err == nil && is == on {
			return nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("it is still %s", words[is])
			}
			return fmt.Errorf("the machine is not %s: %w", words[on], err)
		case <-time.After(pollInterval):
		}
	}
}

// pollInterval is between two questions; controllers are slow.
const pollInterval = time.Second
