package nodes

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// Bounds of a bundle.
const (
	maxBundleLog  = 32 << 20 // bytes of one node's journal
	maxBundleLine = 64 << 10 // bytes of one line
	maxKeyLines   = 200      // of a private key in a journal
	bundleLimit   = 2 * time.Minute
)

// Bundle writes what helps somebody else to see what is wrong into a file (tar, gzip; mode 0600): each node's status and
// journal, what could not be had and why, what Explain says, and the cluster document. The file appears whole or not at
// all. Nothing of the identity is read for it, and what looks like a private key or a token in a journal is left out.
func (o *Operator) Bundle(ctx context.Context, file string, document []byte, explained []string, answers []Answer, now time.Time) error {
	fail := func(err error) error { return fmt.Errorf("cannot write bundle: %w", err) }
	beside, err := os.CreateTemp(filepath.Dir(file), ".bundle-*") // 0600
	if err != nil {
		return fail(err)
	}
	defer os.Remove(beside.Name()) // gone already when it was renamed
	packed := gzip.NewWriter(beside)
	b := &bundle{tar: tar.NewWriter(packed), at: now}
	b.add("cluster.yaml", document)
	b.json("explained.json", explained)
	for i := range o.cluster.Nodes {
		n := &o.cluster.Nodes[i]
		b.json(n.Name+"/status.json", answers[i])
		if answers[i].Status == nil {
			continue // it was asked a moment ago
		}
		text, err := o.journal(ctx, i)
		b.add(n.Name+"/journal.txt", text)
		if err != nil {
			b.add(n.Name+"/journal-error.txt", []byte(err.Error()+"\n"))
		}
	}
	if err := errors.Join(b.err, b.tar.Close(), packed.Close(), beside.Sync(), beside.Close()); err != nil {
		return fail(err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if err := os.Rename(beside.Name(), file); err != nil {
		return fail(err)
	}
	return nil
}

// journal is the end of a node's journal without secrets, and why it isn't whole.
func (o *Operator) journal(ctx context.Context, i int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, bundleLimit)
	defer cancel()
	c := o.Node(&o.cluster.Nodes[i])
	defer c.Close()
	end := &ending{limit: maxBundleLog}
	err := c.Logs(ctx, LogQuery{}, end)
	var clean bytes.Buffer
	err = errors.Join(err, scrub(&clean, bytes.NewReader(end.data)))
	return clean.Bytes(), err
}

// ending keeps the last bytes of what is written to it, between limit and twice as many.
type ending struct {
	limit int
	data  []byte
}

func (e *ending) Write(p []byte) (int, error) {
	e.data = append(e.data, p...)
	if over := len(e.data) - 2*e.limit; over > 0 {
		e.data = append(e.data[:0], e.data[len(e.data)-e.limit:]...)
	}
	return len(p), nil
}

// scrub copies text and leaves out what looks like a private key (PEM, age, kubeconfig) or a token (JWT).
func scrub(w io.Writer, r io.Reader) error {
	leftOut := []byte("(a private key was left out)\n")
	token := regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*|AGE-SECRET-KEY-[A-Z0-9-]+|(?i:client-key-data|private[_-]?key)"?[:=]\s*"?[A-Za-z0-9+/=]{16,}`)
	lines := bufio.NewReaderSize(r, maxBundleLine)
	inKey := 0 // lines that may still be a key's: other lines stand between them, and its end may be missing
	for {
		line, err := lines.ReadSlice('\n') // a longer line comes in pieces
		switch marked := bytes.Contains(line, []byte("PRIVATE KEY-----")); {
		case marked && bytes.Contains(line, []byte("-----END")):
			inKey, line = 0, leftOut
		case marked:
			inKey, line = maxKeyLines, leftOut
		case inKey > 0:
			inKey, line = inKey-1, leftOut
		}
		if _, err := w.Write(token.ReplaceAll(line, []byte("(a secret was left out)"))); err != nil {
			return err
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// bundle adds files to an archive and keeps the first error.
type bundle struct {
	tar *tar.Writer
	at  time.Time
	err error
}

func (b *bundle) add(name string, data []byte) {
	if b.err != nil {
		return
	}
	if b.err = b.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: b.at, Typeflag: tar.TypeReg}); b.err == nil {
		_, b.err = b.tar.Write(data)
	}
}

func (b *bundle) json(name string, value any) {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil && b.err == nil {
		b.err = err
	}
	b.add(name, append(data, '\n'))
}
