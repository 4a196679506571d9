package kv_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/builder/kv"
	"github.com/slipway-os/slipway/builder/kv/kvtest"
)

func TestBolt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kv.db")
	kvtest.Run(t, func() (kv.Store, error) { return openFile(file) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openFile opens a store by its path.
func openFile(file string) (*kv.Bolt, error) {
	folder, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	return kv.OpenBolt(folder, filepath.Base(file))
}

// writer names the file that this program, run anew, writes entries into until it is killed.
const writer = "SLIPWAY_TEST_WRITER"

func TestMain(m *testing.M) {
	if file := os.Getenv(writer); file != "" {
		writeForever(file)
	}
	os.Exit(m.Run())
}

// writeForever commits from many sides and prints each key once it is acknowledged.
func writeForever(file string) {
	s, err := openFile(file)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	begin := time.Now().UnixNano()
	for side := range 32 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d-%d-%d", begin, side, i)
				if err := kv.Commit(s, kv.Put(key, []byte(key))); err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				os.Stdout.WriteString(key + "\n")
			}
		}()
	}
	select {}
}

// TestKilled: killed at any moment under load, also while the file is made, it opens again with all that it acknowledged.
func TestKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kv.db")
	acknowledged := map[string]bool{}
	for round := range 8 {
		for _, key := range writeAndKill(t, file, time.Duration(round*round)*10*time.Millisecond) {
			acknowledged[key] = true
		}
		s, err := openFile(file)
		must(t, err)
		list, err := s.List("")
		must(t, err)
		there := map[string]bool{}
		for _, e := range list {
			there[e.Key] = e.Key == string(e.Value)
		}
		for key := range acknowledged {
			if !there[key] {
				t.Fatalf("round %d: %s was acknowledged and isn't there", round, key)
			}
		}
		must(t, s.Close())
	}
	if len(acknowledged) < 100 {
		t.Errorf("only %d entries were acknowledged in all: this proves little", len(acknowledged))
	}
}

// writeAndKill runs a writer, kills it so long after its first word (the first time: at once), and returns what it acknowledged.
func writeAndKill(t *testing.T, file string, after time.Duration) []string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), writer+"="+file)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer cmd.Wait()
	var keys []string
	lines := bufio.NewScanner(out)
	if after > 0 && lines.Scan() {
		keys = append(keys, lines.Text())
	}
	time.Sleep(after)
	must(t, cmd.Process.Kill())
	for lines.Scan() {
		keys = append(keys, lines.Text())
	}
	if len(keys) > 0 && strings.Count(keys[len(keys)-1], "-") < 2 {
		keys = keys[:len(keys)-1] // cut by the kill
	}
	return keys
}

// TestCut: a file that was cut anywhere, or overwritten, is told with its name; the program that opens it lives on.
func TestCut(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "kv.db")
	s, err := openFile(file)
	must(t, err)
	for i := range 40 {
		s.Begin(kv.Put(fmt.Sprintf("k%02d", i), bytes.Repeat([]byte{byte(i)}, 3000)))
	}
	must(t, s.Close())
	whole, err := os.ReadFile(file)
	must(t, err)
	complaints := 0
	for size := 0; size < len(whole); size += 2048 {
		if open := openBytes(t, file, whole[:size]); open != nil {
			complaints++
			for _, want := range []string{file, "remove it"} {
				if !strings.Contains(open.Error(), want) {
					t.Errorf("cut to %d bytes: %v, want %s", size, open, want)
				}
			}
		}
	}
	if complaints < 20 {
		t.Errorf("only %d cuts were noticed", complaints)
	}
	for _, content := range []string{"", "x", strings.Repeat("not a database\n", 10_000)} {
		if err := openBytes(t, file, []byte(content)); err == nil {
			t.Errorf("a file that begins with %.10q was opened", content)
		}
	}
	must(t, openBytes(t, file, whole))
}

// openBytes opens a file with a content. One that opens must hold each entry or none of them, and take new ones.
func openBytes(t *testing.T, file string, content []byte) error {
	t.Helper()
	must(t, os.WriteFile(file, content, 0o600))
	s, err := openFile(file)
	if err != nil {
		return err
	}
	defer s.Close()
	list, err := s.List("k")
	must(t, err)
	if len(list) != 40 {
		t.Errorf("cut to %d bytes it opens with %d of 40 entries", len(content), len(list))
	}
	must(t, kv.Commit(s, kv.Put("new", make([]byte, 100_000))))
	return nil
}

// TestOpenTwice: the second one is told why.
func TestOpenTwice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kv.db")
	s, err := openFile(file)
	must(t, err)
	defer s.Close()
	if _, err := openFile(file); err == nil || !strings.Contains(err.Error(), "another program has it open") {
		t.Errorf("got %v", err)
	}
	if _, err := openFile(filepath.Dir(file)); err == nil || !strings.Contains(err.Error(), "it is not a file") {
		t.Errorf("got %v", err)
	}
}

// TestFullDisk: with a full disk commits fail and say so, what was acknowledged stays, and with room again all goes on.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its mount namespace
		dir := t.TempDir()
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			t.Error(err)
			return
		}
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k")); err != nil {
			t.Error(err)
			return
		}
		fullDisk(t, dir)
	}()
	<-done
}

func fullDisk(t *testing.T, dir string) {
	s, err := openFile(filepath.Join(dir, "kv.db"))
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	var failed error
	kept := 0
	for ; failed == nil && kept < 1000; kept++ {
		failed = kv.Commit(s, kv.Put(fmt.Sprintf("k%03d", kept), make([]byte, 10_000)))
	}
	kept--
	if !errors.Is(failed, unix.ENOSPC) || !strings.Contains(failed.Error(), "kv.db") {
		t.Errorf("after %d entries: %v", kept, failed)
	}
	if list, err := s.List(""); err != nil || len(list) != kept {
		t.Errorf("%d of %d entries are there, %v", len(list), kept, err)
	}
	if err := kv.Commit(s, kv.Delete("k000"), kv.Delete("k001"), kv.Delete("k002"), kv.Delete("k003")); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=4m"); err != nil {
		t.Error(err)
		return
	}
	if err := kv.Commit(s, kv.Put("k999", make([]byte, 10_000))); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// BenchmarkCommit is how many durable commits a second there are, begun by so many at once.
func BenchmarkCommit(b *testing.B) {
	for _, sides := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("at-once=%d", sides), func(b *testing.B) {
			s, err := openFile(filepath.Join(b.TempDir(), "kv.db"))
			must(b, err)
			defer s.Close()
			value := []byte(`{"mac":"52:54:00:00:00:21","until":"2026-01-01T00:00:00Z"}`)
			var group sync.WaitGroup
			for side := range sides {
				group.Go(func() {
					for i := side; i < b.N; i += sides {
						if err := kv.Commit(s, kv.Put(fmt.Sprintf("lease/10.%d.%d.%d", i>>16&255, i>>8&255, i&255), value)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

// BenchmarkSteady is how long a commit waits when they come at a steady rate. BenchmarkSync is the disk's part of it, twice in each group.
func BenchmarkSteady(b *testing.B) {
	for _, rate := range []int{500, 2000, 6000} {
		b.Run(fmt.Sprintf("a-second=%d", rate), func(b *testing.B) {
			s, err := openFile(filepath.Join(b.TempDir(), "kv.db"))
			must(b, err)
			defer s.Close()
			type begun struct {
				at    time.Time
				saved <-chan error
			}
			waiting, all := make(chan begun, 1<<16), make(chan []time.Duration)
			go func() {
				var waits []time.Duration
				for c := range waiting {
					if err := <-c.saved; err != nil {
						b.Error(err)
					}
					waits = append(waits, time.Since(c.at))
				}
				all <- waits
			}()
			value := []byte(`{"mac":"52:54:00:00:00:21","address":"10.1.16.0","until":"2026-01-01T00:00:00Z"}`)
			begin := time.Now()
			for i := 0; b.Loop(); i++ {
				if early := time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rate))); early > 0 {
					time.Sleep(early)
				}
				waiting <- begun{time.Now(), s.Begin(kv.Put(fmt.Sprintf("lease/10.%d.%d.%d", i>>16&255, i>>8&255, i&255), value))}
			}
			close(waiting)
			waits := <-all
			slices.Sort(waits)
			b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "median-µs")
			b.ReportMetric(float64(waits[len(waits)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// BenchmarkSync is what the disk alone takes: a page written over, and synced.
func BenchmarkSync(b *testing.B) {
	file, err := os.Create(filepath.Join(b.TempDir(), "file"))
	must(b, err)
	defer file.Close()
	const pages = 256
	_, err = file.Write(make([]byte, pages*4096))
	must(b, errors.Join(err, file.Sync()))
	page := make([]byte, 4096)
	for i := 0; b.Loop(); i++ {
		_, err := file.WriteAt(page, int64(i%pages)*4096)
		must(b, errors.Join(err, unix.Fdatasync(int(file.Fd()))))
	}
}
