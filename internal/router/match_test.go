package router

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"kiln/internal/model"
)

func TestMostSpecificWins(t *testing.T) {
	h := newHosts()
	for _, r := range []struct{ host, path, name string }{
		{"", "", "any"},
		{"", "/api", "any-api"},
		{"shop.example.com", "", "shop"},
		{"shop.example.com", "/api", "shop-api"},
		{"shop.example.com", "/api/v2/", "shop-api-v2"},
		{"*.example.com", "", "wild"},
		{"only.example.com", "/here", "only"},
	} {
		h.add(r.host, r.path, &service{name: r.name})
	}
	for _, c := range []struct{ host, path, want string }{
		{"shop.example.com", "/", "shop"},
		{"SHOP.example.COM:8080", "/api", "shop-api"},
		{"shop.example.com.", "/api/", "shop-api"},
		{"shop.example.com", "/api/v2", "shop-api-v2"},
		{"shop.example.com", "/api/v2/x", "shop-api-v2"},
		{"shop.example.com", "/api/v22", "shop-api"},
		{"shop.example.com", "/apiary", "shop"},
		{"other.example.com", "/api", "wild"},
		{"a.b.example.com", "/", "any"},
		{"example.com", "/", "any"},
		{".example.com", "/", "any"},
		{"only.example.com", "/here/now", "only"},
		{"only.example.com", "/elsewhere", "wild"},
		{"127.0.0.1:80", "/api", "any-api"},
		{"[::1]:80", "/", "any"},
		{"", "*", "any"},
	} {
		if svc := h.lookup(c.host, c.path); svc == nil || svc.name != c.want {
			t.Errorf("%s%s goes to %+v, want %s", c.host, c.path, svc, c.want)
		}
	}
	empty := newHosts()
	empty.add("a.com", "/x", &service{name: "x"})
	for _, c := range [][2]string{{"a.com", "/"}, {"b.com", "/x"}, {"", "/x"}} {
		if svc := empty.lookup(c[0], c[1]); svc != nil {
			t.Errorf("%v goes to %s", c, svc.name)
		}
	}
}

// TestLookupAgreesWithTheRule compares with the rule said plainly: of all
// routes that fit, the best host class, then the longest path.
func TestLookupAgreesWithTheRule(t *testing.T) {
	label := rapid.SampledFrom([]string{"a", "b", "shop"})
	host := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(label, 1, 3).Draw(t, "labels"), ".")
	})
	path := rapid.Custom(func(t *rapid.T) string {
		return "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"x", "xy", "y"}), 0, 3).Draw(t, "segments"), "/")
	})
	rapid.Check(t, func(t *rapid.T) {
		type route struct{ host, path string }
		h := newHosts()
		var routes []route
		for range rapid.IntRange(0, 8).Draw(t, "routes") {
			r := route{host.Draw(t, "host"), path.Draw(t, "path")}
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				r.host = ""
			case 1:
				r.host = "*." + r.host
			}
			routes = append(routes, r)
			h.add(r.host, r.path, &service{name: r.host + r.path})
		}
		askHost, askPath := host.Draw(t, "asked host"), path.Draw(t, "asked path")
		best, want := 0, ""
		for _, r := range routes {
			prefix := strings.TrimSuffix(r.path, "/")
			if askPath != prefix && !strings.HasPrefix(askPath, prefix+"/") {
				continue
			}
			rank := 0
			parent, wild := strings.CutPrefix(r.host, "*.")
			switch {
			case r.host == askHost:
				rank = 3000
			case wild && strings.HasSuffix(askHost, "."+parent) && strings.Count(askHost, ".") == strings.Count(parent, ".")+1:
				rank = 2000
			case r.host == "":
				rank = 1000
			default:
				continue
			}
			if rank += len(prefix); rank > best {
				best, want = rank, r.host+r.path
			}
		}
		got := ""
		if svc := h.lookup(askHost, askPath); svc != nil {
			got = svc.name
		}
		if got != want {
			t.Fatalf("%s%s goes to %q, the rule says %q of %v", askHost, askPath, got, want, routes)
		}
	})
}

// FuzzLookup: whatever a client sends as host and path, the look-up ends and
// finds only what is there.
func FuzzLookup(f *testing.F) {
	h := newHosts()
	h.add("shop.example.com", "/a/b", &service{name: "exact"})
	h.add("*.example.com", "/a", &service{name: "wild"})
	for _, s := range [][2]string{{"shop.example.com:80", "/a/b/c"}, {"[::1", "a"}, {":", ""}, {"..", "//"}, {"x.example.com", "/a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, host, path string) {
		svc := h.lookup(host, path)
		if svc == nil {
			return
		}
		n := strings.ToLower(host)
		if !strings.Contains(n, "example.com") || !strings.HasPrefix(path, "/a") {
			t.Errorf("%q %q goes to %s", host, path, svc.name)
		}
	})
}

// FuzzTable: the control socket's input. What checkTable lets through can be
// compiled and looked up, and its own form is the same table.
func FuzzTable(f *testing.F) {
	f.Add(`{"epoch":1,"generation":2,"services":[{"name":"web","release":1,"protocol":"http","routes":[{"listen":":80","host":"*.a"}],"backends":[{"server":"web-aaaaaa","release":1,"address":"1.2.3.4:80"}]}],"draining":[{"server":"web-bbbbbb","address":"1.2.3.4:81"}]}`)
	f.Add(`{"services":[{"name":"t","protocol":"tcp","routes":[{"listen":"[::1]:5"}]}]}`)
	f.Fuzz(func(t *testing.T, input string) {
		table, err := decodeTable(strings.NewReader(input))
		if err != nil || checkTable(&table) != nil {
			return
		}
		r := compile(table, func(u model.Upstream, _ model.Protocol) *server { return &server{id: u.Server} }, func(tallyKey) *tally { return &tally{} })
		for _, address := range listenAddresses(&table) {
			h := r.listeners[address]
			if h == nil {
				t.Fatalf("listener %s has no routing", address)
			}
			h.lookup("shop.example.com", "/x")
			h.bytes()
		}
		if !sameTable(&table, &r.table) {
			t.Error("a table differs from itself")
		}
	})
}
