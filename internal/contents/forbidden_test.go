package contents

import (
	"testing"

	"kiln/internal/model"
)

func TestForbiddenPackages(t *testing.T) {
	openssl := Package{Name: "openssl", Version: "1.1.1n-0+deb11u5", Type: "deb", Ecosystem: "Debian:11"}
	log4j := Package{Name: "org.apache.logging.log4j:log4j-core", Version: "2.14.1", Type: "maven", Ecosystem: "Maven"}
	scoped := Package{Name: "@types/node", Version: "20.1.0", Type: "npm", Ecosystem: "npm"}
	foreign := Package{Name: "thing", Version: "1", Type: "nix"}
	for _, c := range []struct {
		ban  string
		p    Package
		want string
	}{
		{"openssl", openssl, "yes"},
		{"open*", openssl, "yes"},
		{"openss?", openssl, "yes"},
		{"open", openssl, "no"},
		{"OPENSSL", openssl, "no"},
		{"openssl@1.*", openssl, "yes"},
		{"openssl@3.*", openssl, "no"},
		{"openssl<1.1.1n-0+deb11u6", openssl, "yes"},
		{"openssl < 1.1.1n-0+deb11u5", openssl, "no"},
		{"openssl<=1.1.1n-0+deb11u5", openssl, "yes"},
		{"openssl<1.1.1n-0+deb11u5~1", openssl, "no"},
		{"*log4j-core<2.17.1", log4j, "yes"},
		{"*log4j-core<2.14.1", log4j, "no"},
		{"@types/node", scoped, "yes"},
		{"@types/*", scoped, "yes"},
		{"@types/node@19.*", scoped, "no"},
		{"@types/node@20.*", scoped, "yes"},
		{"thing<2", foreign, "unclear"},
		{"thing@1", foreign, "yes"},
		{"openssl<", Package{Name: "x"}, "invalid"},
		{"*", Package{Name: "x"}, "invalid"},
		{"", Package{Name: "x"}, "invalid"},
		{"[", Package{Name: "x"}, "invalid"},
	} {
		r, err := model.ParsePackageRule(c.ban)
		got := "no"
		if err != nil {
			got = string(model.CodeOf(err))
		} else if hit, err := Forbids(r, c.p); err != nil {
			got = "unclear"
		} else if hit {
			got = "yes"
		}
		if got != c.want {
			t.Errorf("%q of %s %s: %s, want %s (%v)", c.ban, c.p.Name, c.p.Version, got, c.want, err)
		}
	}
}
