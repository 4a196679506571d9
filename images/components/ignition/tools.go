//go:build tools

// Package ignition pins the Ignition program that the initrd carries.
package ignition

import _ "github.com/coreos/ignition/v2/config"
