package footprint

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/slipway-os/slipway/builder/internal/fixture"
)

// outside are labels that don't lie in their areas, as the browser draws them: its fonts, not our widths.
const outside = `[...document.querySelectorAll("g > title")].map(t => t.parentNode).flatMap(g => {
	const area = g.querySelector("rect").getBoundingClientRect();
	return [...g.querySelectorAll("text")].filter(t => {
		const r = t.getBoundingClientRect();
		return r.left < area.left - 1 || r.right > area.right + 1 || r.top < area.top - 1 || r.bottom > area.bottom + 1;
	}).map(t => t.textContent + " in " + g.querySelector("title").textContent);
})`

// TestLabelsFit looks at a picture with hundreds of names of many lengths in a browser.
func TestLabelsFit(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is missing: make deps installs it")
	}
	whole := &Node{Name: "slipway-worker-0.1.0-amd64", Class: Mixed}
	for i := range 12 {
		group := &Node{Name: []string{"kernel and its modules", "WWW", "libsystemd-shared", "lib"}[i%4], Class: legend[i%len(legend)]}
		for j := range 40 {
			name := []string{"mmmmWWWW@@@@%%%%", "illicit-fill.tar", "linux-image-6.12.117+deb13-amd64", "x", "文字文字文字"}[j%5]
			group.Children = append(group.Children, &Node{Name: fmt.Sprint(name, j), Class: group.Class, Bytes: int64(1_000_000 / (i + 1) / (j + 1) / (j + 1))})
		}
		whole.Children = append(whole.Children, group)
	}
	whole.sum()
	var picture bytes.Buffer
	if err := whole.SVG(&picture); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "picture.svg")
	if err := os.WriteFile(file, picture.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.UserDataDir(fixture.Folder(t)))
	running, end := chromedp.NewExecAllocator(t.Context(), flags...)
	defer end()
	page, leave := chromedp.NewContext(running)
	defer leave()
	limited, cancel := context.WithTimeout(page, 2*time.Minute)
	defer cancel()
	var wrong []string
	var labels int
	if err := chromedp.Run(limited, chromedp.Navigate("file://"+file), chromedp.Evaluate(outside, &wrong),
		chromedp.Evaluate(`document.querySelectorAll("g > text, g > g > text").length`, &labels)); err != nil {
		t.Fatal(err)
	}
	if labels < 100 {
		t.Errorf("only %d labels are drawn", labels)
	}
	for _, w := range wrong {
		t.Errorf("a label lies outside: %s", w)
	}
}
