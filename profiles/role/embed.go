package role

import (
	"embed"
	"io/fs"
)

//go:embed all:roles
var embedded embed.FS

// Embedded holds the shipped roles: control-plane, worker and what both include.
func Embedded() fs.FS {
	roles, err := fs.Sub(embedded, "roles")
	if err != nil {
		panic("role: " + err.Error()) // the folder is named in the embed directive
	}
	return roles
}
