package pki

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"
)

// Step is how far a rotation is. A step is whole when every node has a configuration of it; only then may the next begin.
type Step string

// Steps of a rotation, in order.
const (
	// StepTrust: nodes trust the next authorities besides their own. These sign nothing yet.
	StepTrust Step = "trust"
	// StepIssue: the next authorities are the cluster's. Those of before are still trusted.
	StepIssue Step = "issue"
	// StepFinish: those of before are trusted no more. Their keys are gone from the identity.
	StepFinish Step = "finish"
)

// Rotation is the replacement of a cluster's authorities, and of the key of its service accounts, by new ones while the cluster runs. It
// takes back all that the old ones have signed: the certificates of a control plane that was removed, and what that could sign
// itself. The boot server's authority stays (no node has its key), and so does the key that encrypts Secrets in etcd.
type Rotation struct {
	Step    Step
	Since   time.Time // when the step began
	Renewed []string  // the nodes that have a configuration of this step, sorted

	other *generation // that is trusted too: the next one, or the one of before; nil in StepFinish
}

// generation is what a rotation replaces.
type generation struct {
	number               int // 1, 2...
	ca, etcd, frontProxy *Authority
	account              *ecdsa.PrivateKey
}

func newGeneration(cluster string, number int, env Environment) (*generation, error) {
	g := &generation{number: number}
	suffix := ""
	if number > 1 { // clients may choose an authority by its name
		suffix = " " + strconv.Itoa(number)
	}
	var err error
	for _, a := range []struct {
		to **Authority
		cn string
	}{{&g.ca, " cluster CA"}, {&g.etcd, " etcd CA"}, {&g.frontProxy, " front proxy CA"}} {
		if *a.to, err = newAuthority(cluster+a.cn+suffix, env); err != nil {
			return nil, err
		}
	}
	g.account, err = newKey(env.Rand)
	return g, err
}

// generation is the identity's own.
func (id *Identity) generation() *generation {
	return &generation{id.number, id.CA, id.Etcd, id.FrontProxy, id.ServiceAccount}
}

// take makes a generation the identity's own.
func (id *Identity) take(g *generation) {
	id.number, id.CA, id.Etcd, id.FrontProxy, id.ServiceAccount = g.number, g.ca, g.etcd, g.frontProxy, g.account
}

// generations are those whose certificates count: the identity's own first.
func (id *Identity) generations() []*generation {
	list := []*generation{id.generation()}
	if id.Rotation != nil && id.Rotation.other != nil {
		list = append(list, id.Rotation.other)
	}
	return list
}

// Trusted is the certificates, as PEM, whose signatures count as the cluster authority's: more than one while a rotation is under way.
func (id *Identity) Trusted() []byte {
	return id.bundle(func(g *generation) *Authority { return g.ca })
}

func (id *Identity) bundle(which func(*generation) *Authority) (text []byte) {
	for _, g := range id.generations() {
		text = append(text, which(g).PEM()...)
	}
	return text
}

// Done says whether all these nodes have a configuration of the present step.
func (r *Rotation) Done(nodes []string) bool {
	return !slices.ContainsFunc(nodes, func(n string) bool { return !slices.Contains(r.Renewed, n) })
}

// Advance takes the rotation to its next step, or begins one, and keeps that in the identity's folder; after the last step there is none.
// Whether every node has the step before is the caller's matter. A cut leaves the one step or the other: the record is written after
// the files that it names, and files that it no longer names go last.
func (id *Identity) Advance(dir string, env Environment) error {
	next := *id
	begun := &Rotation{Since: env.Now.UTC().Truncate(time.Second)}
	next.Rotation = begun
	var made *generation
	switch r := id.Rotation; {
	case r == nil:
		var err error
		if made, err = newGeneration(id.Cluster, id.number+1, env); err != nil {
			return rotationFault(dir, err)
		}
		begun.Step, begun.other = StepTrust, made
	case r.Step == StepTrust:
		begun.Step, begun.other = StepIssue, id.generation()
		next.take(r.other)
	case r.Step == StepIssue:
		begun.Step = StepFinish
	default:
		next.Rotation = nil
	}
	if err := next.keep(dir, made); err != nil {
		return rotationFault(dir, err)
	}
	*id = next
	return nil
}

// Renewed notes in the identity's folder that a node has a configuration of the present step.
func (id *Identity) Renewed(dir, node string) error {
	if id.Rotation == nil || slices.Contains(id.Rotation.Renewed, node) {
		return nil
	}
	next, rotation := *id, *id.Rotation
	rotation.Renewed = append(slices.Clone(rotation.Renewed), node)
	slices.Sort(rotation.Renewed)
	next.Rotation = &rotation
	if err := next.keep(dir, nil); err != nil {
		return rotationFault(dir, err)
	}
	*id = next
	return nil
}

func rotationFault(dir string, err error) error {
	return fmt.Errorf("cannot go on with the rotation of identity %s: %w", dir, err)
}

// keep writes the files of a generation that was made (nil: none was), then the record, and removes what it no longer names.
func (id *Identity) keep(dir string, made *generation) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	text, err := readFile(root, dir, recordFile)
	if err != nil {
		return err
	}
	before, err := parseRecord(text)
	if err != nil {
		return err
	}
	files := map[string][]byte{}
	if made != nil {
		if err := made.files(files); err != nil {
			return err
		}
	}
	if made != nil && id.lock != nil {
		files, _ = split(files)
		if err := id.keepKeys(root, dir); err != nil {
			return err
		}
	}
	for name, data := range files {
		if err := replaceFile(root, dir, name, data); err != nil {
			return err
		}
	}
	if text, err = id.record(before.Created); err != nil {
		return err
	}
	if err := replaceFile(root, dir, recordFile, text); err != nil {
		return err
	}
	after, err := parseRecord(text)
	if err != nil {
		return err
	}
	gone := slices.DeleteFunc(before.generationFiles(), func(name string) bool { return slices.Contains(after.generationFiles(), name) })
	if len(gone) > 0 && id.lock != nil {
		if err := id.keepKeys(root, dir); err != nil {
			return err
		}
	}
	for _, name := range gone {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncFolder(dir)
}

// rotationRecord is a Rotation in the identity's record.
type rotationRecord struct {
	Step    Step      `json:"step"`
	Since   time.Time `json:"since"`
	Renewed []string  `json:"renewed,omitempty"`
	Other   int       `json:"other,omitempty"` // generation that is trusted too
}

// record is what is kept of a rotation. It may be nil.
func (r *Rotation) record() *rotationRecord {
	if r == nil {
		return nil
	}
	kept := &rotationRecord{Step: r.Step, Since: r.Since, Renewed: r.Renewed}
	if r.other != nil {
		kept.Other = r.other.number
	}
	return kept
}

// check wants what rotate can have written.
func (r *record) check() error {
	if r.Generation < 0 {
		return fmt.Errorf("there is no generation %d", r.Generation)
	}
	if r.Rotation == nil {
		return nil
	}
	wanted, ok := map[Step]int{StepTrust: max(r.Generation, 1) + 1, StepIssue: max(r.Generation, 1) - 1, StepFinish: 0}[r.Rotation.Step]
	if !ok || r.Rotation.Other != wanted || r.Rotation.Step == StepIssue && wanted < 1 {
		return fmt.Errorf("step %.20q with generation %d beside %d is none of a rotation", r.Rotation.Step, r.Rotation.Other, max(r.Generation, 1))
	}
	return nil
}

// rotation is the one that the record tells of.
func (r *record) rotation(files map[string][]byte) (*Rotation, error) {
	if r.Rotation == nil {
		return nil, nil
	}
	rotation := &Rotation{Step: r.Rotation.Step, Since: r.Rotation.Since, Renewed: r.Rotation.Renewed}
	var err error
	if n := r.Rotation.Other; n > 0 {
		rotation.other, err = parseGeneration(files, n)
	}
	return rotation, err
}

// Names of a generation's files.
const (
	caName         = "ca"
	etcdName       = "etcd-ca"
	frontProxyName = "front-proxy-ca"
)

// generationFile is the name of a file of a generation.
func generationFile(number int, name string) string {
	if number <= 1 {
		return name
	}
	return fmt.Sprintf("%d-%s", number, name)
}

// generationFiles are the names of all files of a generation.
func generationFiles(number int) (names []string) {
	for _, name := range []string{caName, etcdName, frontProxyName} {
		names = append(names, generationFile(number, name+".crt"), generationFile(number, name+".key"))
	}
	return append(names, generationFile(number, accountFile))
}

// generationFiles are those that the record names.
func (r *record) generationFiles() []string {
	names := generationFiles(max(r.Generation, 1))
	if r.Rotation != nil && r.Rotation.Other > 0 {
		names = append(names, generationFiles(r.Rotation.Other)...)
	}
	return names
}

func (g *generation) authorities() map[string]**Authority {
	return map[string]**Authority{caName: &g.ca, etcdName: &g.etcd, frontProxyName: &g.frontProxy}
}

// files adds the generation's files.
func (g *generation) files(files map[string][]byte) error {
	for name, a := range g.authorities() {
		key, err := (*a).KeyPEM()
		if err != nil {
			return err
		}
		files[generationFile(g.number, name+".crt")], files[generationFile(g.number, name+".key")] = (*a).PEM(), key
	}
	key, err := encodeKey(g.account)
	files[generationFile(g.number, accountFile)] = key
	return err
}

func parseGeneration(files map[string][]byte, number int) (*generation, error) {
	g := &generation{number: number}
	for name, a := range g.authorities() {
		var err error
		if *a, err = parseAuthority(files[generationFile(number, name+".crt")], files[generationFile(number, name+".key")]); err != nil {
			return nil, fmt.Errorf("%s: %w", generationFile(number, name), err)
		}
	}
	var err error
	if g.account, err = parseKey(files[generationFile(number, accountFile)]); err != nil {
		return nil, fmt.Errorf("%s: %w", generationFile(number, accountFile), err)
	}
	return g, nil
}
