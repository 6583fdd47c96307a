package registry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadFile(t *testing.T) {
	for name, c := range map[string]struct {
		text, says string
		push       bool
		storage    string
	}{
		"nothing but an address": {text: "version: 0.1\nhttp:\n  addr: :5000\n"},
		"others may push": {
			text: "version: 0.1\nstorage:\n  maintenance:\n    readonly:\n      enabled: false\nhttp:\n  addr: :5000\n", push: true,
		},
		"a storage":               {text: "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /x\nhttp:\n  addr: :5000\n", storage: "filesystem"},
		"a storage by its name":   {text: "version: 0.1\nstorage: inmemory\nhttp:\n  addr: :5000\n", storage: "inmemory"},
		"two storages":            {text: "version: 0.1\nstorage:\n  filesystem: {}\n  inmemory: {}\n", says: "exactly one storage type"},
		"no version":              {text: "http:\n  addr: :5000\n", says: "version"},
		"broken":                  {text: "version: 0.1\nhttp: [\n", says: "line 2"},
		"empty":                   {text: "", says: "version"},
		"a key without its cert":  {text: "version: 0.1\nhttp:\n  tls:\n    key: /k\n", says: "belong together"},
		"certificates of clients": {text: "version: 0.1\nhttp:\n  tls:\n    certificate: /c\n    key: /k\n    clientcas: [/ca]\n", says: "only certificate and key"},
		"Let's Encrypt":           {text: "version: 0.1\nhttp:\n  tls:\n    letsencrypt:\n      cachefile: /c\n", says: "only certificate and key"},
		"a cache":                 {text: "version: 0.1\nproxy:\n  remoteurl: https://r\n", says: "no cache"},
	} {
		path := filepath.Join(t.TempDir(), "registry.yml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := ReadFile(path)
		switch {
		case c.says != "":
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v, want %q and the file", name, err, c.says)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case f.Push != c.push || f.Storage.Type() != c.storage || f.Address() != ":5000":
			t.Errorf("%s: push %v, storage %q, address %q", name, f.Push, f.Storage.Type(), f.Address())
		}
	}
	if f, err := ReadFile(filepath.Join(t.TempDir(), "none")); f != nil || err != nil {
		t.Errorf("no file: %v, %v", f, err)
	}
}
