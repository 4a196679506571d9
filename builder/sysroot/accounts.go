package sysroot

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-os/slipway/builder/rootfs"
)

// pinned are the ids of accounts that packages ask for without naming one. They must never change: files on a node's
// disk are owned by numbers.
var pinned = map[string]int{
	"systemd-journal":  999,
	"systemd-network":  998,
	"systemd-timesync": 997,
	"messagebus":       996,
	"systemd-resolve":  995,
	"systemd-coredump": 994,
	"systemd-oom":      993,
	"input":            992,
	"sgx":              991,
	"clock":            990,
	"kvm":              989,
	"render":           988,
	"etcd":             987,
}

// Ids of accounts that are not pinned lie here: found by the hash of the name, so that they depend on as little as
// possible.
const firstFree, lastFree = 400, 899

type user struct {
	name, gecos, home, shell string
	uid, gid                 int
}

type group struct {
	name    string
	gid     int
	members []string
}

type accounts struct {
	users  map[string]*user
	groups map[string]*group
	lines  []sysusersLine
}

// accounts writes passwd, group, shadow and gshadow from base-passwd's masters and the packages' sysusers.d files
// (sysusers.d(5)). No account has a password.
func (f *finisher) accounts() error {
	a := &accounts{users: map[string]*user{}, groups: map[string]*group{}}
	if err := a.masters(f.tree); err != nil {
		return err
	}
	if err := a.readSysusers(f.tree); err != nil {
		return err
	}
	if err := a.apply(); err != nil {
		return err
	}
	f.tree.Remove("usr/share/base-passwd")
	for _, file := range []struct {
		path    string
		mode    uint32
		gid     int
		content string
	}{
		{"etc/passwd", 0o644, 0, a.passwd()},
		{"etc/group", 0o644, 0, a.group(":x:%d:")},
		{"etc/shadow", 0o640, shadowGroup, a.shadow()},
		{"etc/gshadow", 0o640, shadowGroup, a.group(":*::")},
	} {
		e := rootfs.Entry{Path: file.path, Type: rootfs.Regular, Mode: file.mode, GID: file.gid, Content: rootfs.Inline([]byte(file.content)), Origin: origin}
		if err := f.tree.Replace(e); err != nil {
			return err
		}
	}
	return nil
}

const shadowGroup = 42 // base-passwd's

// masters reads base-passwd's passwd.master and group.master.
func (a *accounts) masters(t *rootfs.Tree) error {
	const folder = "usr/share/base-passwd/"
	passwd, err := t.ReadFile(folder + "passwd.master")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(passwd)) {
		c := strings.Split(strings.TrimSpace(line), ":")
		if len(c) != 7 {
			return fmt.Errorf("%spasswd.master: %q has not 7 fields", folder, line)
		}
		uid, err1 := strconv.Atoi(c[2])
		gid, err2 := strconv.Atoi(c[3])
		if err := cmp.Or(err1, err2); err != nil {
			return fmt.Errorf("%spasswd.master: %q: %w", folder, line, err)
		}
		a.users[c[0]] = &user{name: c[0], uid: uid, gid: gid, gecos: c[4], home: c[5], shell: c[6]}
	}
	groups, err := t.ReadFile(folder + "group.master")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(groups)) {
		c := strings.Split(strings.TrimSpace(line), ":")
		if len(c) != 4 {
			return fmt.Errorf("%sgroup.master: %q has not 4 fields", folder, line)
		}
		gid, err := strconv.Atoi(c[2])
		if err != nil {
			return fmt.Errorf("%sgroup.master: %q: %w", folder, line, err)
		}
		a.groups[c[0]] = &group{name: c[0], gid: gid}
	}
	return nil
}

type sysusersLine struct {
	where                        string
	kind                         string
	name, id, gecos, home, shell string
}

// readSysusers reads all sysusers.d files: /etc's hide those of the same name in /usr/lib.
func (a *accounts) readSysusers(t *rootfs.Tree) error {
	files := map[string]string{}
	for _, folder := range []string{"usr/lib/sysusers.d", "etc/sysusers.d"} {
		for _, e := range t.All() {
			if path.Dir(e.Path) == folder && path.Ext(e.Path) == ".conf" {
				files[path.Base(e.Path)] = e.Path
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text, err := t.ReadFile(files[name])
		if err != nil {
			return err
		}
		if err := a.parse(files[name], string(text)); err != nil {
			return err
		}
	}
	return nil
}

func (a *accounts) parse(file, text string) error {
	number := 0
	for line := range strings.Lines(text) {
		number++
		where := fmt.Sprintf("%s:%d", file, number)
		c, err := words(line)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if len(c) == 0 || strings.HasPrefix(c[0], "#") {
			continue
		}
		if len(c) < 2 || len(c) > 6 {
			return fmt.Errorf("%s: %d fields, not 2 to 6", where, len(c))
		}
		for i := range c {
			if c[i] == "-" {
				c[i] = ""
			}
		}
		c = append(c, "", "", "", "")
		a.lines = append(a.lines, sysusersLine{where, strings.TrimSuffix(c[0], "!"), c[1], c[2], c[3], c[4], c[5]})
	}
	return nil
}

// words splits a line at white space; double quotes hold words together.
func words(line string) ([]string, error) {
	quoted := false
	fields := strings.FieldsFunc(strings.TrimSpace(line), func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t')
	})
	if quoted {
		return nil, fmt.Errorf("a quote is not closed")
	}
	for i := range fields {
		fields[i] = strings.Trim(fields[i], `"`)
	}
	return fields, nil
}

// apply makes the accounts: groups first, then users in two rounds (those with a number of their own first), then
// members, as systemd-sysusers does.
func (a *accounts) apply() error {
	slices.SortStableFunc(a.lines, func(x, y sysusersLine) int {
		return cmp.Or(cmp.Compare(x.rank(), y.rank()), cmp.Compare(x.name, y.name))
	})
	for _, l := range a.lines {
		var err error
		switch l.kind {
		case "g":
			err = a.addGroup(l.name, l.id)
		case "u":
			err = a.addUser(l)
		case "m":
			err = a.addMember(l.name, l.id)
		case "r":
		default:
			err = fmt.Errorf("line type %q is not known", l.kind)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", l.where, err)
		}
	}
	return nil
}

func (l sysusersLine) rank() int {
	rank := map[string]int{"g": 0, "u": 2, "m": 4}[l.kind]
	if l.id == "" {
		rank++ // after those with a number
	}
	return rank
}

func (a *accounts) addGroup(name, id string) error {
	if _, ok := a.groups[name]; ok {
		return nil
	}
	gid, err := a.number(name, id)
	if err != nil {
		return err
	}
	for _, g := range a.groups {
		if g.gid == gid {
			return fmt.Errorf("group %s would have id %d, which is %s's", name, gid, g.name)
		}
	}
	a.groups[name] = &group{name: name, gid: gid}
	return nil
}

func (a *accounts) addUser(l sysusersLine) error {
	if _, ok := a.users[l.name]; ok {
		return nil
	}
	id, groupID, split := strings.Cut(l.id, ":")
	uid, err := a.number(l.name, id)
	if err != nil {
		return err
	}
	for _, u := range a.users {
		if u.uid == uid {
			return fmt.Errorf("user %s would have id %d, which is %s's", l.name, uid, u.name)
		}
	}
	gid := uid
	if g, ok := a.groups[groupID]; ok {
		gid = g.gid
	} else if split {
		if gid, err = strconv.Atoi(groupID); err != nil {
			return fmt.Errorf("user %s: group %q is not known", l.name, groupID)
		}
	} else if err := a.addGroup(l.name, strconv.Itoa(uid)); err != nil {
		return err
	} else {
		gid = a.groups[l.name].gid
	}
	a.users[l.name] = &user{name: l.name, uid: uid, gid: gid, gecos: l.gecos, home: cmp.Or(l.home, "/"), shell: cmp.Or(l.shell, "/usr/sbin/nologin")}
	return nil
}

func (a *accounts) addMember(user, name string) error {
	if err := a.addGroup(name, ""); err != nil {
		return err
	}
	if g := a.groups[name]; !slices.Contains(g.members, user) {
		g.members = append(g.members, user)
		slices.Sort(g.members)
	}
	return nil
}

// number is an account's id: the one it asks for, else the pinned one, else one by its name.
func (a *accounts) number(name, id string) (int, error) {
	if id != "" {
		n, err := strconv.Atoi(id)
		if err != nil || n < 0 || n > 65534 {
			return 0, fmt.Errorf("account %s: id %q is not a number from 0 to 65534", name, id)
		}
		return n, nil
	}
	if u, ok := a.users[name]; ok {
		return u.gid, nil
	}
	if g, ok := a.groups[name]; ok {
		return g.gid, nil
	}
	if n, ok := pinned[name]; ok {
		return n, nil
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	const span = lastFree - firstFree + 1
	for i := range span {
		if n := firstFree + (int(h.Sum32()%span)+i)%span; !a.taken(n) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("account %s: all ids from %d to %d are taken", name, firstFree, lastFree)
}

func (a *accounts) taken(id int) bool {
	for _, u := range a.users {
		if u.uid == id {
			return true
		}
	}
	for _, g := range a.groups {
		if g.gid == id {
			return true
		}
	}
	return false
}

func (a *accounts) byUID() []*user {
	return slices.SortedFunc(maps.Values(a.users), func(x, y *user) int { return cmp.Or(cmp.Compare(x.uid, y.uid), cmp.Compare(x.name, y.name)) })
}

func (a *accounts) passwd() string {
	var b strings.Builder
	for _, u := range a.byUID() {
		fmt.Fprintf(&b, "%s:x:%d:%d:%s:%s:%s\n", u.name, u.uid, u.gid, u.gecos, u.home, u.shell)
	}
	return b.String()
}

func (a *accounts) shadow() string {
	var b strings.Builder
	for _, u := range a.byUID() {
		fmt.Fprintf(&b, "%s:*:20000:0:99999:7:::\n", u.name)
	}
	return b.String()
}

// group is group(5) or gshadow(5): the middle of a line is a format of the number, or has none.
func (a *accounts) group(middle string) string {
	var b strings.Builder
	for _, g := range slices.SortedFunc(maps.Values(a.groups), func(x, y *group) int { return cmp.Or(cmp.Compare(x.gid, y.gid), cmp.Compare(x.name, y.name)) }) {
		m := middle
		if strings.Contains(m, "%d") {
			m = fmt.Sprintf(m, g.gid)
		}
		fmt.Fprintf(&b, "%s%s%s\n", g.name, m, strings.Join(g.members, ","))
	}
	return b.String()
}
