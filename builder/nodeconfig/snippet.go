package nodeconfig

import (
	"fmt"
	"slices"
	"strings"

	ignition "github.com/coreos/ignition/v2/config/v3_5"
	"github.com/coreos/ignition/v2/config/v3_5/types"
	"github.com/coreos/vcontext/report"

	"github.com/slipway-os/slipway/builder/pki"
	"github.com/slipway-os/slipway/profiles/cluster"
)

// SnippetError says what is wrong with a file of the user's own Ignition configuration.
type SnippetError struct {
	Path    string // relative to the cluster document
	Message string // begins with line:column where it is known
	Hint    string
}

// Error is PATH:[LINE:COL:] MESSAGE (HINT).
func (e *SnippetError) Error() string {
	s := e.Path + ":" + e.Message
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// parseSnippet reads one of the user's files (Ignition spec 3.0.0 to 3.5.0) and refuses what can't work here.
func parseSnippet(s cluster.Snippet, own []pki.File) (types.Config, error) {
	config, result, err := ignition.ParseCompatibleVersion(s.Data)
	if err != nil {
		if where := places(result); where != "" {
			return config, &SnippetError{Path: s.Path, Message: where}
		}
		return config, &SnippetError{Path: s.Path, Message: " not a valid Ignition configuration: " + err.Error(), Hint: "Slipway takes Ignition configurations of spec 3.0.0 to 3.5.0"}
	}
	for _, r := range refusals(config) {
		if r.present {
			return config, &SnippetError{Path: s.Path, Message: " " + r.what + " can't be used", Hint: r.hint}
		}
	}
	for _, path := range paths(config) {
		if slices.ContainsFunc(own, func(f pki.File) bool { return f.Path == path }) {
			return config, &SnippetError{Path: s.Path, Message: " " + path + " is Slipway's own", Hint: "it is made from the cluster document"}
		}
	}
	return config, nil
}

type refusal struct {
	present    bool
	what, hint string
}

// refusals are the sections that Ignition knows and a node can't do: its disks stage waits for systemd's device units,
// which don't exist in the initramfs, and the kernel's arguments are part of the image.
func refusals(c types.Config) []refusal {
	const disks = "disk layout is described in the cluster document, not by Ignition"
	const remote = "put its content into a file beside the cluster document and name it there"
	return []refusal{
		{len(c.Storage.Disks) > 0, "storage.disks", disks},
		{len(c.Storage.Raid) > 0, "storage.raid", disks},
		{len(c.Storage.Luks) > 0, "storage.luks", disks},
		{len(c.Storage.Filesystems) > 0, "storage.filesystems", disks},
		{len(c.KernelArguments.ShouldExist)+len(c.KernelArguments.ShouldNotExist) > 0, "kernelArguments", "they are part of the image: kernelArguments of the image definition"},
		{len(c.Ignition.Config.Merge) > 0, "ignition.config.merge", remote},
		{c.Ignition.Config.Replace.Source != nil, "ignition.config.replace", remote},
		{slices.ContainsFunc(sources(c), fromCloud), "a source from a cloud's storage (s3, arn, gs)", "images have Ignition without the clients of clouds; use https, or " + remote},
	}
}

// sources are the resources that a configuration fetches.
func sources(c types.Config) []types.Resource {
	list := slices.Clone(c.Ignition.Security.TLS.CertificateAuthorities)
	for _, f := range c.Storage.Files {
		list = append(append(list, f.Contents), f.Append...)
	}
	return list
}

func fromCloud(r types.Resource) bool {
	if r.Source == nil {
		return false
	}
	scheme, _, _ := strings.Cut(*r.Source, ":")
	return slices.Contains([]string{"s3", "arn", "gs"}, scheme)
}

// paths are all paths that a configuration writes.
func paths(c types.Config) []string {
	var list []string
	for _, f := range c.Storage.Files {
		list = append(list, f.Path)
	}
	for _, d := range c.Storage.Directories {
		list = append(list, d.Path)
	}
	for _, l := range c.Storage.Links {
		list = append(list, l.Path)
	}
	return list
}

// places are a report's errors as LINE:COL: PATH: MESSAGE. They quote no content.
func places(r report.Report) string {
	var list []string
	for _, e := range r.Entries {
		if e.Kind != report.Error {
			continue
		}
		place := ""
		if e.Marker.StartP != nil {
			place = fmt.Sprintf("%d:%d:", e.Marker.StartP.Line, e.Marker.StartP.Column)
		}
		if where := strings.TrimPrefix(e.Context.String(), "$."); where != "" && where != "$" {
			place += " " + where + ":"
		}
		list = append(list, place+" "+e.Message)
	}
	return strings.Join(list, "; ")
}
