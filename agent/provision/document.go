package provision

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/slipway-os/slipway/images/bootspec"
)

// NodeDocument is the node document in an Ignition configuration: steps before Ignition runs need to know it. No error
// quotes the configuration.
func NodeDocument(config []byte) (bootspec.Node, error) {
	var c struct {
		Storage struct {
			Files []struct {
				Path     string
				Contents struct{ Source, Compression string }
			}
		}
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return bootspec.Node{}, errors.New("the configuration is no Ignition configuration")
	}
	for _, f := range c.Storage.Files {
		if f.Path != bootspec.NodeDocument {
			continue
		}
		data, err := inline(f.Contents.Source, f.Contents.Compression)
		if err != nil {
			return bootspec.Node{}, fmt.Errorf("the configuration's %s: %w", bootspec.NodeDocument, err)
		}
		return bootspec.ParseNode(data)
	}
	return bootspec.Node{}, fmt.Errorf("the configuration has no %s: it was not made by slipway", bootspec.NodeDocument)
}

// inline is the content of a file that is in the configuration itself.
func inline(source, compression string) ([]byte, error) {
	data, err := dataURL(source)
	if err != nil || compression != "gzip" {
		return data, err
	}
	if data, err = unzip(data, bootspec.MaxNodeDocument+1); err != nil {
		return nil, errors.New("its content is badly compressed")
	}
	return data, nil
}

// dataURL is what a data URL (RFC 2397) says. No error quotes it.
func dataURL(source string) ([]byte, error) {
	head, text, ok := strings.Cut(source, ",")
	if !ok || !strings.HasPrefix(head, "data:") {
		return nil, errors.New("its content is not in the configuration itself")
	}
	plain, err := url.PathUnescape(text)
	if err != nil {
		return nil, errors.New("its content is badly encoded")
	}
	if !strings.HasSuffix(head, ";base64") {
		return []byte(plain), nil
	}
	data, err := base64.StdEncoding.DecodeString(plain)
	if err != nil {
		return nil, errors.New("its content is badly encoded")
	}
	return data, nil
}

// unzip is the first bytes of what gzip has packed, at most limit.
func unzip(data []byte, limit int64) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(z, limit))
}
