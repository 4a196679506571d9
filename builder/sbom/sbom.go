// Package sbom writes and reads the bill of materials of an image: SPDX 2.3 as JSON, with every Debian package and its
// source package, every program with the Go modules that were linked into it, and every container image.
//
// What is in a program is read from the program itself (debug/buildinfo), not from what it was to be built from. No clock
// is asked: equal images have equal documents, whatever order their parts are given in.
//
// It is not the manifest (images/manifest), which has the digests that are verified, and not the list of files
// (builder/inventory).
package sbom

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"runtime/debug"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// MaxSize bounds a document in bytes.
const MaxSize = 64 << 20

// Image is what a document describes.
type Image struct {
	Name            string // slipway-worker-0.1.0-amd64
	Version         string
	Root            string // SHA-256 of the root image, hexadecimal
	Created         int64  // Unix seconds: not when the document was made, but the time of the image's files
	Distribution    Distribution
	Packages        []Package
	Components      []Component
	ContainerImages []ContainerImage
}

// Distribution is whose packages the Debian packages are, in words of os-release(5).
type Distribution struct {
	ID      string // debian
	Version string // 13; may be empty
	Name    string // Debian GNU/Linux
}

// Package is a Debian package. Fields of its control data are as written there; what it doesn't say is empty.
type Package struct {
	Name, Version, Arch           string
	SHA256                        string // of the .deb
	Path                          string // in its archive, for people
	Source, Maintainer, Homepage  string
	PreDepends, Depends, Provides string
	Copyright                     []byte // its copyright file; nil where it brings none
}

// Component is a component built for the image.
type Component struct {
	Name, Version string
	Key           string // SHA-256 of everything that went in
	InImage       bool   // in the root image or the initrd, and not only in a container image
	Programs      []Program
}

// Program is a binary of a component.
type Program struct {
	Path   string // in the image
	SHA256 string
	Build  *debug.BuildInfo // nil when it was not made by Go
}

// ContainerImage is a container image in the root image.
type ContainerImage struct {
	Name      string
	Reference string // slipway.local/pause:0.1.0
	Digest    string // sha256:...
	Component string // what it is made of
}

// Encode is the document. Its namespace follows from its content, so that different documents have different ones.
func (i Image) Encode() ([]byte, error) {
	doc := i.document()
	text, err := encode(doc)
	if err != nil {
		return nil, fmt.Errorf("cannot write SBOM of %s: %w", i.Name, err)
	}
	doc.DocumentNamespace = fmt.Sprintf("https://slipway.dev/spdx/%s/%x", i.Name, sha256.Sum256(text))
	return encode(doc)
}

func encode(doc *v2_3.Document) ([]byte, error) {
	var b bytes.Buffer
	err := spdxjson.Write(doc, &b, spdxjson.Indent("  "), spdxjson.EscapeHTML(false))
	return b.Bytes(), err
}
