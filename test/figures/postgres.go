package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// postgres is the folder of PostgreSQL's programs. Its clusters here are scratch ones, in folders of ours, on a socket there: no other
// cluster of the machine is touched.
type postgres string

// keaSchema is what Kea's tables are made with (Debian's kea-admin).
const keaSchema = "/usr/share/kea/scripts/pgsql/dhcpdb_create.pgsql"

// keaThreads is how many threads Kea has with PostgreSQL, each with a connection of its own. Of 2, 4, 8, 16 and 32 it is the number with which
// the most exchanges were finished on two processors. More don't help: Kea counts a subnet's leases in one row, so that each commit waits
// for the one before, and PostgreSQL can't write several with one sync.
const keaThreads = 16

// findPostgres looks for it, and for what Kea needs of it.
func findPostgres() (postgres, error) {
	initdb := newestInitdb(os.Getenv("PATH"))
	if initdb == "" {
		return "", errors.New("there is no initdb of PostgreSQL (make bench unpacks it into out/peers, if that folder isn't there yet)")
	}
	if _, err := os.Stat(keaSchema); err != nil {
		return "", fmt.Errorf("%w (make deps, with the packages of make bench)", err)
	}
	folder, err := filepath.Abs(filepath.Dir(initdb))
	return postgres(folder), err
}

// newestInitdb is the newest one beside the folders of a PATH, where Debian has them; empty: there is none.
func newestInitdb(path string) string {
	var found []string
	for _, folder := range filepath.SplitList(path) {
		more, _ := filepath.Glob(filepath.Join(folder, "../lib/postgresql/*/bin/initdb")) // it fails for bad patterns only
		found = append(found, more...)
	}
	if len(found) == 0 {
		return ""
	}
	version := func(initdb string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Join(initdb, "../..")))
		return n
	}
	return slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(version(a), version(b)) })
}

// command is one of its programs. They refuse to run as root, so in a user namespace they take themselves for nobody; in an IPC namespace
// of their own no shared memory stays when they are killed.
func (p postgres) command(n *namespaces, program string, words ...string) *exec.Cmd {
	cmd := exec.Command("ip", slices.Concat([]string{"netns", "exec", n.server, "unshare", "--ipc", "--user", "--map-user=65534", "--map-group=65534",
		filepath.Join(string(p), program)}, words)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if libraries, _ := filepath.Glob(filepath.Join(string(p), "../../../*-linux-gnu*")); !strings.HasPrefix(string(p), "/usr/lib/") {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+strings.Join(libraries, ":")) // it is unpacked, not installed
	}
	return cmd
}

// run runs one of its programs to its end.
func (p postgres) run(n *namespaces, program string, words ...string) (string, error) {
	out, err := p.command(n, program, words...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return string(out), nil
}

// sql runs its client in a folder's cluster.
func (p postgres) sql(n *namespaces, dir, database string, words ...string) (string, error) {
	return p.run(n, "psql", slices.Concat([]string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", dir, "-U", "kea", "-d", database}, words)...)
}

// start starts a folder's cluster, all settings as they are by default: fsync and synchronous_commit are on.
func (p postgres) start(n *namespaces, dir string) (running, error) {
	log, err := os.Create(filepath.Join(dir, "postgresql.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := p.command(n, "postgres", "-D", filepath.Join(dir, "postgresql"), "-k", dir, "-c", "listen_addresses=", "-c", "dynamic_shared_memory_type=sysv")
	cmd.Stdout, cmd.Stderr = log, log
	r, err := begin(cmd)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(dhcpWait); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if _, err = p.sql(n, dir, "postgres", "-c", "select 1"); err == nil {
			return r, nil
		}
	}
	text, _ := os.ReadFile(log.Name())
	return nil, errors.Join(fmt.Errorf("PostgreSQL doesn't answer within %s: %w\n%s", dhcpWait, err, text), r.end())
}

// startKea makes a cluster, starts it, and starts Kea with it.
func (p postgres) startKea(n *namespaces, dir string) (running, error) {
	if _, err := p.run(n, "initdb", "-D", filepath.Join(dir, "postgresql"), "--auth=trust", "--username=kea", "--encoding=UTF8", "--no-locale"); err != nil {
		return nil, err
	}
	database, err := p.start(n, dir)
	if err != nil {
		return nil, err
	}
	_, err = p.sql(n, dir, "postgres", "-c", "create database kea")
	if err == nil {
		_, err = p.sql(n, dir, "kea", "-f", keaSchema)
	}
	if err != nil {
		return nil, errors.Join(err, database.end())
	}
	kea, err := n.startKea(dir, fmt.Sprintf(`{"type": "postgresql", "name": "kea", "host": %q, "user": "kea"}`, dir), keaThreads)
	if err != nil {
		return nil, errors.Join(err, database.end())
	}
	return append(kea, database...), nil
}

// leases are those in the cluster of a folder, after PostgreSQL has recovered it.
func (p postgres) leases(n *namespaces, dir string) (count int, err error) {
	database, err := p.start(n, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, database.end()) }()
	said, err := p.sql(n, dir, "kea", "-c", "select count(*) from lease4")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(said))
}
