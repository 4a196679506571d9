package sbom

import (
	"strings"
	"testing"

	"github.com/github/go-spdx/v2/spdxexp"
)

const dep5 = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"

func TestLicenseNames(t *testing.T) {
	for said, want := range map[string]string{
		"GPL-2":                           "GPL-2.0-only",
		"GPL-2+":                          "GPL-2.0-or-later",
		"LGPL-2.1+":                       "LGPL-2.1-or-later",
		"GFDL-1.3+":                       "GFDL-1.3-or-later",
		"Expat":                           "MIT",
		"BSD-3-clause":                    "BSD-3-Clause",
		"Apache-2.0":                      "Apache-2.0",
		"MPL-1.1+":                        "MPL-1.1+",
		"GPL-3+ with GCC-exception-3.1":   "GPL-3.0-or-later WITH GCC-exception-3.1",
		"GPL-2+ or Artistic-1.0":          "GPL-2.0-or-later OR Artistic-1.0",
		"GPL-2 and ISC or Expat":          "GPL-2.0-only AND ISC OR MIT",
		"GPL-2 or ISC, and Expat":         "(GPL-2.0-only OR ISC) AND MIT",
		"GPL-2, ISC":                      "GPL-2.0-only AND ISC",
		"public-domain":                   "LicenseRef-public-domain-c3a1d8ed",
		"GPL-2+ with a strange exception": "LicenseRef-GPL-2--with-a-strange-exception-",
	} {
		got, _ := declaredLicense([]byte(dep5 + "\nFiles: *\nLicense: " + said + "\n"))
		if strings.HasPrefix(want, "LicenseRef-") {
			got, want = got[:len(got)-8], strings.TrimSuffix(want, "c3a1d8ed")
		}
		if got != want {
			t.Errorf("%s is %q, want %q", said, got, want)
		}
	}
}

func TestTextsOfOtherLicenses(t *testing.T) {
	file := dep5 + "License: Expat\n\nFiles: a\nLicense: own\n\nFiles: b\nLicense: own\n\nLicense: own\n First line.\n .\n  Indented.\n"
	got, others := declaredLicense([]byte(file))
	if len(others) != 1 || others[0].ExtractedText != "First line.\n\n Indented." || got != others[0].LicenseIdentifier+" AND MIT" {
		t.Errorf("%s: %+v", got, others)
	}
}

func TestOtherCopyrightFilesSayNothing(t *testing.T) {
	for name, file := range map[string]string{
		"none": "", "prose": "This package was debianized by somebody.\nLicense: GPL-2\n", "no licence": dep5 + "\nFiles: *\nCopyright: me\n",
		"another format": "Format: something\n\nFiles: *\nLicense: GPL-2\n",
	} {
		if got, others := declaredLicense([]byte(file)); got != "" || others != nil {
			t.Errorf("%s: %q, %v", name, got, others)
		}
	}
}

func FuzzDeclaredLicense(f *testing.F) {
	f.Add(systemdCopyright)
	f.Add(dep5 + "\nFiles: *\nLicense: GPL-2+ with x exception or (a, and, or b) and +\n")
	f.Fuzz(func(t *testing.T, file string) {
		got, others := declaredLicense([]byte(file))
		if got == "" {
			return
		}
		if ok, bad := spdxexp.ValidateLicenses([]string{got}); !ok {
			t.Errorf("%q is no SPDX expression (%v)", got, bad)
		}
		for _, o := range others {
			if o.ExtractedText == "" || o.LicenseName == "" {
				t.Errorf("%+v says nothing", o)
			}
		}
	})
}
