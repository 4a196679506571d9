package cluster

import _ "embed"

//go:embed lab.yaml
var lab string

//go:embed reference.yaml
var reference string

// Lab is the shipped example of two machines: one control plane, one worker, two networks.
func Lab() []byte { return []byte(lab) }

// Reference is the shipped example of the rack of three control planes and two workers.
func Reference() []byte { return []byte(reference) }
