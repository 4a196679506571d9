package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/pki"
)

// Where the key of an identity whose keys are encrypted is looked for, after --identity-key: a file that a variable names, and a credential of the
// systemd service (systemd.exec(5), LoadCredential=).
const (
	identityKeyVariable   = "SLIPWAY_IDENTITY_KEY"
	identityKeyCredential = "slipway-identity-key"
)

// identityKey is what opens an identity whose keys are encrypted. It is asked for only then.
func (a *app) identityKey(flags *clusterFlags) pki.Opener {
	return func(passphrase bool) (*pki.Lock, error) {
		if lock, err := a.namedKey(flags); lock != nil || err != nil {
			return lock, err
		}
		if !passphrase || !terminal(a.in) {
			return nil, fmt.Errorf("%w: name the file with the key that opens them (--identity-key FILE, %s, or the systemd credential %s)",
				pki.ErrLocked, identityKeyVariable, identityKeyCredential)
		}
		word, err := askPassword(a, "Passphrase of the identity: ")
		if err != nil {
			return nil, err
		}
		return pki.Passphrase(word)
	}
}

// namedKey is the lock of the file or the credential that is named; nil: none is.
func (a *app) namedKey(flags *clusterFlags) (*pki.Lock, error) {
	file := flags.key
	if file == "" {
		file = a.env(identityKeyVariable)
	}
	if file != "" {
		return pki.ReadLock(file)
	}
	return a.credential()
}

// openAgain reads an identity anew for a program that runs and has nobody to ask for a passphrase. Its keys are opened by the file or credential that is
// named; where that can't be read any more (a stick that was taken out), or a passphrase was typed, by what opened them before.
func (a *app) openAgain(flags *clusterFlags, dir string, before *pki.Identity) (*pki.Identity, error) {
	var named error
	typed := false
	id, err := pki.Open(dir, func(bool) (lock *pki.Lock, err error) {
		if lock, named = a.namedKey(flags); lock != nil {
			return lock, nil
		}
		typed = named == nil
		switch lock := before.Lock(); {
		case lock != nil:
			return lock, nil
		case named != nil:
			return nil, named
		}
		return nil, fmt.Errorf("%w, and were not when the server was started: start it anew with the key that opens them (--identity-key)", pki.ErrLocked)
	})
	if errors.Is(err, pki.ErrWrongLock) {
		err = errors.Join(err, named)
		if typed {
			err = fmt.Errorf("%w; the passphrase that was typed at the start is all that the server has: start it anew to type another one", err)
		}
	}
	return id, err
}

// credential is the lock that systemd gave to this service; nil: none. Who may read it is systemd's to say: its access lists look like
// modes that let the group read.
func (a *app) credential() (*pki.Lock, error) {
	dir := a.env("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(dir, identityKeyCredential))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var lock *pki.Lock
	if err == nil {
		lock, err = pki.ParseLock(data)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the credential %s: %w", identityKeyCredential, err)
	}
	return lock, nil
}

// readLocks makes a lock of what people name: public keys of age, and files with age's secret keys or a passphrase.
func readLocks(names []string) (*pki.Lock, error) {
	var locks []*pki.Lock
	for _, name := range names {
		read := pki.ReadLock
		if strings.HasPrefix(name, "age1") {
			read = pki.PublicLock
		}
		lock, err := read(name)
		if err != nil {
			return nil, err
		}
		locks = append(locks, lock)
	}
	return pki.JoinLocks(locks...)
}

const encryptToUsage = "what opens the keys: a file with age's secret keys or a passphrase, or a public key (age1...); again for more of them"

func identityEncryptCommand(a *app) *cobra.Command {
	var flags clusterFlags
	var to []string
	c := &cobra.Command{
		Use:   "encrypt --cluster FILE --to FILE|age1...",
		Short: "Encrypt the keys of an identity, or encrypt them for somebody else",
		Long: `encrypt encrypts the private keys in an identity's folder with age: keys.age is in their place, and certificates stay as they are.
--to names what opens them from now on: a file with a secret key of age (age-keygen) or with a passphrase in one line, or a public key; several,
but a passphrase alone. An identity that is encrypted already is encrypted anew, and opened with --identity-key for that.
Every command that needs the keys then needs --identity-key FILE, or ` + identityKeyVariable + `, or the systemd credential
` + identityKeyCredential + `; a passphrase is asked for on a terminal. Without that key nobody has the cluster's keys again: keep a copy elsewhere.
Nothing in plain is written. What lay on the disk in plain before may still be read from the disk itself, and from old copies of the folder.`,
		Args: noWords,
		RunE: func(c *cobra.Command, _ []string) error { return encryptIdentity(a, c, flags, to) },
	}
	flags.register(c)
	flags.registerIdentity(c)
	c.Flags().StringArrayVar(&to, "to", nil, encryptToUsage)
	a.outputFlag(c)
	return c
}

func encryptIdentity(a *app, c *cobra.Command, flags clusterFlags, to []string) error {
	d, err := flags.load(c)
	if err != nil {
		return err
	}
	if len(to) == 0 {
		return usage(c, errors.New("--to is missing"))
	}
	lock, err := readLocks(to)
	if err != nil {
		return err
	}
	dir := flags.identityDir(d)
	if err := outside(dir, append(to, flags.key)); err != nil {
		return err
	}
	id, err := pki.Encrypt(dir, a.identityKey(&flags), lock, a.pki())
	if err != nil {
		return err
	}
	if id.Cluster != d.Metadata.Name {
		fmt.Fprintf(a.words, "the identity in %s is that of cluster %s, not of %s\n", dir, id.Cluster, d.Metadata.Name)
	}
	result := struct {
		Folder  string `json:"folder"`
		Cluster string `json:"cluster"`
	}{dir, id.Cluster}
	return a.print(result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "the keys of %s in %s are encrypted; keep what opens them elsewhere, too\n", id.Cluster, dir)
		return err
	})
}

// outside refuses keys that lie in the folder that they are to protect.
func outside(dir string, files []string) error {
	folder, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		if file == "" || strings.HasPrefix(file, "age1") {
			continue
		}
		path, err := filepath.Abs(file)
		if err != nil {
			return err
		}
		if strings.HasPrefix(path, folder+string(filepath.Separator)) {
			return fmt.Errorf("%s lies in the folder that it protects: keep it elsewhere", file)
		}
	}
	return nil
}
