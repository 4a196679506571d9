package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-os/slipway/builder/flash"
	"github.com/slipway-os/slipway/builder/nodeconfig"
	"github.com/slipway-os/slipway/images/bootspec"
)

// flashFlags are what flash needs besides the node.
type flashFlags struct {
	clusterFlags
	trust          trustFlags
	node           string
	image, device  string
	sha256, serial string
	configure      bool
	force, yes     bool
	dry, offline   bool
}

func flashCommand(a *app) *cobra.Command {
	var flags flashFlags
	c := &cobra.Command{
		Use:   "flash IMAGE [DEVICE] [--cluster FILE --node NAME]",
		Short: "Write an image and a node's configuration to a USB stick, a disk or a file",
		Long: `flash writes a disk image or an ISO to DEVICE and puts a node's configuration into its own place there. IMAGE is a
file (.disk.raw, .disk-4k.raw, .iso), or a folder of baked images, from which the node's role and the
device's sectors choose one. It is verified against its manifest (or --sha256, which vouches for it without a signature) while it is read, and
what was written is read back and compared. Partition tables are written last: a flash that was interrupted leaves nothing that boots, and is
run again from the beginning.

Without DEVICE the devices are listed, each with the reason why it is refused, if it is. Refused are devices that are
mounted or in use, the disk that this machine runs from, too small ones, those with other sectors than the image's, and
those that are not removable, unless they are named by --serial with --force. DEVICE may be the name of a file, for
virtual media: it holds the node's keys then, and only its owner may read it. All of them boot with UEFI only: a machine with
legacy BIOS boots from the network.

With --configure DEVICE, a medium that was flashed before gets another node's configuration, in a second.
Exit codes: 0 done; 1 failed; 2 wrong usage or wrong input; 5 the device is refused; 6 a signature is missing
or wrong; 130 interrupted.`,
		Args: func(c *cobra.Command, args []string) error { return flags.words(c, args) },
		RunE: func(c *cobra.Command, _ []string) error { return runFlash(c, a, flags) },
	}
	flags.register(c)
	flags.registerIdentity(c)
	flags.trust.register(c)
	c.Flags().StringVar(&flags.node, "node", "", "the node that boots from it; without it the medium asks the boot server")
	c.Flags().BoolVar(&flags.configure, "configure", false, "write no image, only the node's configuration")
	c.Flags().BoolVar(&flags.offline, "offline", false, "the node has no boot server to ask or to report to")
	c.Flags().StringVar(&flags.sha256, "sha256", "", "SHA-256 of the image's file, where no manifest is beside it")
	c.Flags().StringVar(&flags.serial, "serial", "", "serial number that the device must have")
	c.Flags().BoolVar(&flags.force, "force", false, "write a device that is not removable, if --serial names it")
	c.Flags().BoolVar(&flags.yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&flags.dry, "dry-run", false, "say what would be done, and do nothing")
	a.outputFlag(c)
	return c
}

// words takes what is no flag.
func (f *flashFlags) words(c *cobra.Command, args []string) error {
	most, what := 2, "IMAGE and DEVICE are wanted"
	if f.configure {
		most, what = 1, "with --configure one DEVICE is wanted"
	}
	if len(args) < 1 || len(args) > most {
		return usage(c, errors.New(what))
	}
	if f.configure {
		f.device = args[0]
		return nil
	}
	f.image = args[0]
	if len(args) > 1 {
		f.device = args[1]
	}
	return nil
}

func runFlash(c *cobra.Command, a *app, flags flashFlags) error {
	j := &flashJob{app: a, flags: flags, command: c}
	switch {
	case (flags.file == "") != (flags.node == ""):
		return usage(c, errors.New("--cluster and --node belong together"))
	case flags.configure:
		if err := needs(c, "cluster", "node"); err != nil {
			return err
		}
	case flags.force && flags.serial == "":
		return usage(c, errors.New("--force wants the device's --serial"))
	}
	for _, step := range []func(context.Context) error{j.readCluster, j.lookAtDevice, j.openImage} {
		if err := step(c.Context()); err != nil {
			return err
		}
	}
	if flags.device == "" {
		return j.list()
	}
	if err := j.refuse(); err != nil {
		return err
	}
	if flags.dry {
		return j.print(j.plan(), j.printPlan)
	}
	if err := j.render(); err != nil {
		return err
	}
	if err := j.ask(c.Context()); err != nil {
		return err
	}
	if flags.configure {
		return j.configure()
	}
	return j.write(c.Context())
}

// flashJob is one run of flash: what each step leaves for the next.
type flashJob struct {
	*app
	flags   flashFlags
	command *cobra.Command
	cluster *clusterDocument // nil: no node
	role    string           // of the node
	device  *flash.Device    // nil: a file
	image   *flash.Image     // nil: only the configuration
	config  *bootspec.Config // nil: none
}

func (j *flashJob) readCluster(context.Context) error {
	if j.flags.file == "" {
		return nil
	}
	d, err := j.flags.load(j.command)
	if err != nil {
		return err
	}
	n, ok := d.Node(j.flags.node)
	if !ok {
		return usage(j.command, fmt.Errorf("cluster %s has no node %s", d.Metadata.Name, j.flags.node))
	}
	j.cluster, j.role = d, n.Role
	return nil
}

// lookAtDevice finds the device; a name that is no device may become a file, but not below /dev.
func (j *flashJob) lookAtDevice(context.Context) error {
	path := j.flags.device
	info, err := os.Stat(path)
	if path == "" || err == nil && info.Mode().IsRegular() || errors.Is(err, fs.ErrNotExist) && !j.flags.configure && !strings.HasPrefix(path, "/dev/") {
		return nil
	}
	d, err := flash.Find(path)
	if err != nil {
		return err
	}
	j.device = &d
	return nil
}

func (j *flashJob) openImage(ctx context.Context) error {
	if j.flags.configure {
		return nil
	}
	trust, err := j.flags.trust.read(j.app, j.command)
	if err != nil {
		return err
	}
	ref := flash.Reference{Name: j.flags.image, SHA256: j.flags.sha256, Role: j.role, Trust: trust}
	if j.cluster != nil {
		ref.Version = j.cluster.Image.Version
	}
	if j.device != nil {
		ref.SectorSize = j.device.SectorSize
	}
	image, err := flash.Open(ctx, ref)
	if err != nil {
		return err
	}
	if image.Role != "" && j.role != "" && image.Role != j.role {
		return usage(j.command, fmt.Errorf("the image is one for role %s, and node %s has role %s", image.Role, j.flags.node, j.role))
	}
	j.image = image
	return nil
}

// want is what the device must be.
func (j *flashJob) want() flash.Want {
	w := flash.Want{Serial: j.flags.serial, Force: j.flags.force}
	if j.image != nil {
		w.Size, w.SectorSize = j.image.Size, j.image.SectorSize
	}
	return w
}

func (j *flashJob) refuse() error {
	if j.device == nil {
		return nil
	}
	return j.device.Refuse(j.want())
}

// render makes the node's configuration.
func (j *flashJob) render() error {
	if j.cluster == nil {
		return nil
	}
	id, err := loadIdentity(j.app, &j.flags.clusterFlags, j.cluster)
	if err != nil {
		return err
	}
	env := nodeconfig.Environment{Environment: j.pki(), Server: nodeServerURL(j.cluster, j.flags.node)}
	if j.flags.offline {
		env.Server = ""
	}
	document, err := nodeconfig.Render(j.cluster.Cluster, j.flags.node, id, env)
	if err != nil {
		return err
	}
	j.config = &bootspec.Config{Cluster: j.cluster.Metadata.Name, Node: j.flags.node, Document: document}
	return nil
}

// ask shows the plan and asks once. What is not there yet needs no question.
func (j *flashJob) ask(ctx context.Context) error {
	if _, err := os.Stat(j.flags.device); j.flags.yes || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !terminal(j.in) {
		return usage(j.command, errors.New("nobody can be asked here: add --yes to write without a question"))
	}
	if err := j.printPlan(j.words); err != nil {
		return err
	}
	question := "Everything on it will be lost. Type yes to go on: "
	if j.flags.configure {
		question = "Its node configuration will be replaced. Type yes to go on: "
	}
	fmt.Fprint(j.words, question)
	answer := make(chan string, 1) // nobody waits for it any more after an interrupt
	go func() {
		line, _ := bufio.NewReader(j.in).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(j.words)
		return fmt.Errorf("interrupted, nothing was written: %w", ctx.Err())
	case line := <-answer:
		if line != "yes" {
			return errors.New("nothing was written: the answer was not yes")
		}
	}
	return nil
}

func (j *flashJob) configure() error {
	written, err := flash.Configure(j.flags.device, j.role, *j.config)
	if err != nil {
		return err
	}
	result := struct {
		flashPlan
		Generation uint64 `json:"generation"`
	}{j.plan(), written.Generation}
	return j.print(result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s is node %s of cluster %s now\n", j.flags.device, written.Node, written.Cluster)
		return err
	})
}

func (j *flashJob) write(ctx context.Context) error {
	open := flash.CreateFile
	if j.device != nil {
		open = flash.OpenDevice
	}
	target, err := open(j.flags.device)
	if err != nil {
		return err
	}
	defer target.Close()
	p := newProgress(j.app)
	defer p.end()
	started := j.now()
	done, err := flash.Write(ctx, flash.Order{Image: j.image, Target: target, Config: j.config, Progress: p.flashing(started)})
	if err != nil {
		return err
	}
	p.end()
	took := j.now().Sub(started)
	result := struct {
		flashPlan
		flash.Result
		Seconds float64 `json:"seconds"`
	}{j.plan(), done, took.Seconds()}
	return j.print(result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s holds %s: %s of data and %s of zeros written, read back and the same, in %s\n",
			j.flags.device, j.image.Name, bytesText(done.Written), bytesText(done.Zeroed), took.Round(100*time.Millisecond))
		if err == nil && j.config != nil {
			_, err = fmt.Fprintf(w, "it is node %s of cluster %s\n", j.config.Node, j.config.Cluster)
		}
		return err
	})
}
