package component

import (
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"strings"
)

// checkStatic refuses a binary that would not run by itself on a node: one of another architecture, one that asks for a
// dynamic loader (PT_INTERP) or for shared libraries (DT_NEEDED). Position-independent static ones are right.
func checkStatic(name, arch string) error {
	if err := checkProgram(name, arch); err != nil {
		return err
	}
	return checkBuildInfo(name, arch)
}

// checkProgram is checkStatic for a program that others built, in Go or not.
func checkProgram(name, arch string) error {
	file, err := elf.Open(name)
	if err != nil {
		return fmt.Errorf("not an ELF binary: %w", err)
	}
	defer file.Close()
	if want := machine(arch); file.Machine != want || file.Class != elf.ELFCLASS64 {
		return fmt.Errorf("wrong architecture: it is for %v, not for %s (%v)", file.Machine, arch, want)
	}
	if file.Type != elf.ET_EXEC && file.Type != elf.ET_DYN {
		return fmt.Errorf("not a program: its ELF type is %v", file.Type)
	}
	for _, p := range file.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader := make([]byte, min(p.Filesz, 256))
		if _, err := p.ReadAt(loader, 0); err != nil {
			return fmt.Errorf("cannot read its dynamic loader: %w", err)
		}
		return fmt.Errorf("not static: it asks for the dynamic loader %s", strings.TrimRight(string(loader), "\x00"))
	}
	needed, err := file.DynString(elf.DT_NEEDED)
	if err != nil {
		return fmt.Errorf("cannot read its dynamic section: %w", err)
	}
	if len(needed) > 0 {
		return fmt.Errorf("not static: it needs %s", strings.Join(needed, ", "))
	}
	return nil
}

func machine(arch string) elf.Machine {
	if arch == "arm64" {
		return elf.EM_AARCH64
	}
	return elf.EM_X86_64
}

// checkBuildInfo reads what Go recorded of the build.
func checkBuildInfo(name, arch string) error {
	info, err := buildinfo.ReadFile(name)
	if err != nil {
		return fmt.Errorf("not made by Go: %w", err)
	}
	for _, setting := range info.Settings {
		want := map[string]string{"GOOS": "linux", "GOARCH": arch, "-trimpath": "true"}[setting.Key]
		if want != "" && setting.Value != want {
			return fmt.Errorf("built with %s=%s, not %s", setting.Key, setting.Value, want)
		}
		if strings.HasPrefix(setting.Key, "vcs") {
			return fmt.Errorf("it records the state of version control (%s)", setting.Key)
		}
	}
	return nil
}
