package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/slipway-os/slipway/builder/release"
)

// passwordVariable is the environment variable with a secret key's password.
const passwordVariable = "SLIPWAY_KEY_PASSWORD"

func keygenCommand(a *app) *cobra.Command {
	var plain, cosign bool
	c := &cobra.Command{
		Use:   "keygen NAME",
		Short: "Make a key pair to sign releases with",
		Long: `keygen makes NAME.key, a secret key, and NAME.pub, its public key, in minisign's formats. The secret key is encrypted
with a password: SLIPWAY_KEY_PASSWORD, else it is asked for. With --no-password it is not: then whatever keeps it
(a pipeline's secret store) must. Give the public key to whoever shall trust your releases. A key is never replaced.
With --cosign the pair is one of cosign's (ECDSA on P-256, PEM), for slipway sign --cosign-key: the same as cosign generate-key-pair
makes. Its secret key is always encrypted, with --no-password by an empty password.`,
		Args: oneWord("NAME"),
		RunE: func(c *cobra.Command, args []string) error { return keygen(a, c, args[0], plain, cosign) },
	}
	c.Flags().BoolVar(&plain, "no-password", false, "do not encrypt the secret key")
	c.Flags().BoolVar(&cosign, "cosign", false, "make a key pair as cosign has them")
	a.outputFlag(c)
	return c
}

// oneWord wants one argument.
func oneWord(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return usage(c, fmt.Errorf("one %s is wanted", what))
		}
		return nil
	}
}

func keygen(a *app, c *cobra.Command, name string, plain, cosign bool) error {
	base := strings.TrimSuffix(name, release.ExtSecret)
	var password string
	if !plain {
		var err error
		if password, err = newPassword(a, c); err != nil {
			return err
		}
	}
	generate := release.Generate
	if cosign {
		generate = release.GenerateSigstore
	}
	key, err := generate(base, password, rand.Reader)
	if err != nil {
		return err
	}
	result := struct {
		release.Key
		Secret    string `json:"secret"`
		Encrypted bool   `json:"encrypted"`
	}{key, base + release.ExtSecret, !plain}
	return a.print(result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "made key %s: %s to sign with, keep it secret; %s for whoever trusts it\n", key.ID, result.Secret, key.File)
		return err
	})
}

// newPassword is the password for a new key.
func newPassword(a *app, c *cobra.Command) (string, error) {
	if word := a.env(passwordVariable); word != "" {
		return word, nil
	}
	if !terminal(a.in) {
		return "", usage(c, errors.New("nobody can be asked for a password here: set "+passwordVariable+", or --no-password"))
	}
	word, err := askPassword(a, "Password for the secret key: ")
	if err != nil {
		return "", err
	}
	again, err := askPassword(a, "Once more: ")
	switch {
	case err != nil:
		return "", err
	case word == "":
		return "", usage(c, errors.New("the password is empty: --no-password makes a key without"))
	case word != again:
		return "", usage(c, errors.New("the two passwords differ"))
	}
	return word, nil
}

func askPassword(a *app, question string) (string, error) {
	in, ok := a.in.(*os.File)
	if !ok || !terminal(a.in) {
		return "", fmt.Errorf("%w: set %s", release.ErrPassword, passwordVariable)
	}
	fmt.Fprint(a.words, question)
	word, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(a.words)
	if err != nil {
		return "", fmt.Errorf("cannot read the password: %w", err)
	}
	return string(word), nil
}

func signCommand(a *app) *cobra.Command {
	var version, key, cosign string
	c := &cobra.Command{
		Use:   "sign DIR --key FILE [--cosign-key FILE]",
		Short: "Sign a release: all images of a version in a folder",
		Long: `sign compares every artifact of the release in DIR with its manifest and every provenance with its image, writes
slipway-VERSION.sha256sums, which names all of them, and slipway-VERSION.sha256sums.minisig, the signature of that. It is made with a secret key of
slipway keygen or of minisign; the password of one that is encrypted is SLIPWAY_KEY_PASSWORD, else it is asked for. The same release and
key give the same bytes. Without Slipway a release is verified by:

  minisign -V -p KEY.pub -m slipway-VERSION.sha256sums && sha256sum -c slipway-VERSION.sha256sums

With --cosign-key, a key of cosign generate-key-pair, of slipway keygen --cosign, or another ECDSA P-256 key in PEM, it writes Sigstore
bundles too, for cosign verify-blob and verify-blob-attestation: slipway-VERSION.sha256sums.sigstore.json, and for each image
.provenance.sigstore.json. That key's password is COSIGN_PASSWORD, else SLIPWAY_KEY_PASSWORD. One of the two keys is enough.`,
		Args: oneWord("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			if key == "" && cosign == "" {
				return usage(c, errors.New("--key is missing, and --cosign-key too: one of them is wanted"))
			}
			return signRelease(a, args[0], version, key, cosign)
		},
	}
	c.Flags().StringVar(&key, "key", "", "secret key file, of minisign")
	c.Flags().StringVar(&cosign, "cosign-key", "", "secret key file, of cosign")
	c.Flags().StringVar(&version, "version", "", "version of the release, where the folder has several")
	a.outputFlag(c)
	return c
}

func signRelease(a *app, dir, version, file, cosign string) error {
	by, err := readSigners(a, file, cosign)
	if err != nil {
		return err
	}
	signed, err := release.Sign(dir, version, by)
	if err != nil {
		return err
	}
	return a.print(signed, func(w io.Writer) error {
		keys := strings.TrimSpace(signed.Key + " " + signed.Sigstore)
		fmt.Fprintf(w, "signed version %s (%s) with key %s: %s names %d files\n",
			signed.Version, strings.Join(signed.Images, ", "), strings.ReplaceAll(keys, " ", " and key "), filepath.Join(dir, signed.Sums), signed.Files)
		if len(signed.Unproven) > 0 {
			fmt.Fprintf(w, "without provenance, because none lies there: %s\n", strings.Join(signed.Unproven, ", "))
		}
		return nil
	})
}

// readSigners reads secret keys; empty names are of none.
func readSigners(a *app, file, cosign string) (release.Signers, error) {
	var by release.Signers
	if file != "" {
		key, err := readKey(a, file)
		if err != nil {
			return by, err
		}
		by.Minisign = &key
	}
	if cosign != "" {
		key, err := release.ReadSigstoreKey(cosign, a.password(cosign, "COSIGN_PASSWORD", passwordVariable))
		if err != nil {
			return by, err
		}
		by.Sigstore = &key
	}
	return by, nil
}

// readKey reads a secret key of minisign's.
func readKey(a *app, file string) (release.SigningKey, error) {
	return release.ReadSigningKey(file, a.password(file, passwordVariable))
}

// password takes a secret key's password from the first variable that is set, else asks for it.
func (a *app) password(file string, variables ...string) func() (string, error) {
	return func() (string, error) {
		for _, name := range variables {
			if word := a.env(name); word != "" {
				return word, nil
			}
		}
		return askPassword(a, "Password of "+file+": ")
	}
}
