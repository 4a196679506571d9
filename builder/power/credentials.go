package power

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/slipway-os/slipway/images/document"
)

// Credentials are users and passwords of controllers, by the names of nodes.
type Credentials struct {
	Default login            `yaml:"default"` // of nodes that have none of their own
	Nodes   map[string]login `yaml:"nodes"`
}

type login struct {
	User     string `yaml:"user"`
	Password string `yaml:"password"`
}

// ErrExposed says that others than its owner may read a file of credentials.
var ErrExposed = errors.New("others may read the credentials")

// ReadCredentials reads a file of credentials, which only its owner may read. Its content is in no error.
func ReadCredentials(path string) (*Credentials, error) {
	fail := func(err error) (*Credentials, error) {
		return nil, fmt.Errorf("cannot read the controllers' credentials %s: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if !info.Mode().IsRegular() {
		return fail(errors.New("it is not a file"))
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fail(fmt.Errorf("%w: its mode is %04o (run: chmod 600 %s)", ErrExposed, info.Mode().Perm(), path))
	}
	data, err := io.ReadAll(io.LimitReader(f, document.MaxSize+1))
	if err != nil {
		return fail(err)
	}
	c := &Credentials{}
	if _, err := document.Decode(path, data, c); err != nil {
		return fail(err)
	}
	return c, nil
}

// Login is a node's.
func (c *Credentials) Login(node string) (Login, error) {
	l, ok := c.Nodes[node]
	if !ok {
		l = c.Default
	}
	if l.User == "" || l.Password == "" {
		return Login{}, fmt.Errorf("the credentials have no user and password for %s, and no default", node)
	}
	return Login(l), nil
}
