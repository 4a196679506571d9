package manage

import (
	"bufio"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-os/slipway/agent/units"
	"github.com/slipway-os/slipway/images/bootspec"
)

// askLimit bounds what a status may take.
const askLimit = 5 * time.Second

// status answers how the node is.
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), askLimit)
	defer cancel()
	s.answer(w, s.look(ctx))
}

// look finds out how the node is.
func (s *Server) look(ctx context.Context) bootspec.LiveStatus {
	l := bootspec.LiveStatus{Name: s.node.Name, Role: s.node.Role, Clock: time.Now().UTC().Truncate(time.Second)}
	keep := func(err error) {
		if err != nil {
			l.Problems = append(l.Problems, err.Error())
		}
	}
	var err error
	l.Image, err = environment(filepath.Join(s.node.Root, bootspec.ImageRelease), "SLIPWAY_IMAGE")
	keep(err)
	keep(kernel(&l))
	states, err := s.node.Control.Units(ctx, s.node.Target)
	keep(err)
	for _, u := range states {
		cpu, memory := used(filepath.Join(s.node.Root, "/sys/fs/cgroup/system.slice", u.Name))
		l.Units = append(l.Units, bootspec.UnitStatus{Name: u.Name, Active: u.Active, Sub: u.Sub, Restarts: u.Restarts, Failing: u.Failing(), CPU: cpu, Memory: memory})
	}
	l.Certificates, err = certificates(s.node.Root)
	keep(err)
	l.Memory, err = memory()
	keep(err)
	l.Disks = disks(s.node.Root)
	if s.node.Role == controlPlane {
		l.Etcd = s.etcd(ctx)
	}
	l.Backup = s.backup()
	l.Renewal = s.renewal()
	return l
}

// used is what a unit's control group has used (Documentation/admin-guide/cgroup-v2): zeros when it has none.
func used(group string) (cpu bootspec.Millis, memory int64) {
	if text, err := os.ReadFile(filepath.Join(group, "cpu.stat")); err == nil {
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), "usage_usec "); ok {
				n, _ := strconv.ParseInt(value, 10, 64)
				cpu = bootspec.Millis(n / 1000)
			}
		}
	}
	if text, err := os.ReadFile(filepath.Join(group, "memory.current")); err == nil {
		memory, _ = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	return cpu, memory
}

// Units asks systemd.
func (systemdControl) Units(ctx context.Context, target string) ([]units.State, error) {
	m, err := units.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	members, err := m.Members(ctx, target)
	if err != nil {
		return nil, err
	}
	return m.States(ctx, members)
}

// kernel asks the kernel for its release, the boot's id and age.
func kernel(l *bootspec.LiveStatus) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("cannot ask the kernel: %w", err)
	}
	l.Kernel = unix.ByteSliceToString(name.Release[:])
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fmt.Errorf("cannot ask the kernel: %w", err)
	}
	l.Uptime = bootspec.Millis(now.Nano() / int64(time.Millisecond))
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	l.Boot = strings.TrimSpace(string(id))
	return err
}

// memory is the machine's, as /proc/meminfo says.
func memory() (bootspec.Capacity, error) {
	m := bootspec.Capacity{Name: "memory"}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return m, err
	}
	defer f.Close()
	for scan := bufio.NewScanner(f); scan.Scan(); {
		fields := strings.Fields(scan.Text()) // MemTotal: 2030456 kB
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "MemTotal:":
			m.Total = n << 10
		case "MemAvailable:":
			m.Free = n << 10
		}
	}
	return m, nil
}

// disks are the file systems that a node writes to, each once.
func disks(root string) []bootspec.Capacity {
	var list []bootspec.Capacity
	seen := map[unix.Fsid]bool{}
	for _, mount := range []string{"/", "/var", "/var/lib/etcd", "/var/log"} {
		var st unix.Statfs_t
		if err := unix.Statfs(filepath.Join(root, mount), &st); err != nil || seen[st.Fsid] || st.Blocks == 0 {
			continue
		}
		seen[st.Fsid] = true
		list = append(list, bootspec.Capacity{Name: mount, Total: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize})
	}
	return list
}

// Bounds of the search for certificates.
const (
	maxCertificates    = 64
	maxCertificateFile = 256 << 10 // bytes
)

// certificates are those in the node's files, soonest first.
func certificates(root string) ([]bootspec.CertificateDate, error) {
	var list []bootspec.CertificateDate
	var faults []error
	for _, dir := range []string{bootspec.KubeconfigDirectory, "/var/lib/kubelet/pki"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case e.IsDir() || len(list) >= maxCertificates || !holdsCertificate(path):
				return nil
			}
			until, err := ends(path)
			if err != nil {
				faults = append(faults, fmt.Errorf("cannot read the certificate in %s: %w", path, err))
				return nil
			}
			list = append(list, bootspec.CertificateDate{File: "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/"), Until: until})
			return nil
		})
		faults = append(faults, err)
	}
	slices.SortFunc(list, func(a, b bootspec.CertificateDate) int {
		return cmp.Or(a.Until.Compare(b.Until), strings.Compare(a.File, b.File))
	})
	return list, errors.Join(faults...)
}

// holdsCertificate tells by the name. Of what a kubelet has rotated only the current one counts.
func holdsCertificate(path string) bool {
	name := filepath.Base(path)
	return strings.HasSuffix(name, ".crt") || strings.HasSuffix(name, ".conf") || strings.HasSuffix(name, "-current.pem")
}

// ends is when the first certificate in a PEM file or kubeconfig ends.
func ends(path string) (time.Time, error) {
	f, err := os.Open(path)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCertificateFile))
	if err != nil {
		return time.Time{}, err
	}
	return notAfter(data)
}

// notAfter is when the first certificate ends, of a PEM text or of a kubeconfig with one in it.
func notAfter(data []byte) (time.Time, error) {
	if m := regexp.MustCompile(`client-certificate-data:\s*"?([A-Za-z0-9+/=]+)`).FindSubmatch(data); m != nil {
		decoded, err := base64.StdEncoding.DecodeString(string(m[1]))
		if err != nil {
			return time.Time{}, errors.New("it is not base64")
		}
		data = decoded
	}
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return time.Time{}, errors.New("there is none")
		}
		if block.Type == "CERTIFICATE" {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return time.Time{}, err
			}
			return c.NotAfter, nil
		}
		data = rest
	}
}
