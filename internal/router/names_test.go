package router

import (
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"kiln/internal/model"
)

// named is a router whose services have names in the loopback's network.
func named(t *testing.T) *testRouter {
	r := startRouter(t, Limits{})
	r.names = names{"abcdef", netip.MustParsePrefix("127.64.0.0/16")}
	return r
}

// port returns a port on which nobody listens, at no address.
func port(t *testing.T) int {
	t.Helper()
	_, text, _ := net.SplitHostPort(freeAddress(t))
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestNames: each service is reached at its name's address and port, whatever
// host and path are asked for, by its protocol; also one without a route.
func TestNames(t *testing.T) {
	r := named(t)
	web := r.service(model.HTTP, backendServer(t, "web-aaaaaa", text("web")))
	web.Routes[0].Host, web.Port = "web.example.com", port(t)
	db := scriptedServer(t, "db-aaaaaa", func(_ *scripted, _ int64, c *net.TCPConn) { _, _ = io.WriteString(c, "hello") })
	bytes := model.TableService{Name: "db", Release: 1, Protocol: model.TCP, Port: port(t), Backends: []model.Upstream{db.Upstream}}
	r.apply([]model.TableService{web, bytes})
	c := client(t, false)
	if _, body := do(t, c, "GET", "http://"+r.names.address(&web)+"/any/path", nil); body != "web" {
		t.Errorf("by its name: %q", body)
	}
	if res, _ := do(t, c, "GET", r.url("/"), nil); res.StatusCode != 404 {
		t.Errorf("its route takes any host: %s", res.Status)
	}
	conn, err := net.Dial("tcp", r.names.address(&bytes))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if b, _ := io.ReadAll(conn); string(b) != "hello" {
		t.Errorf("tcp by its name: %q", b)
	}
	// A service that is gone has no name any more.
	r.apply([]model.TableService{web})
	if conn, err := net.Dial("tcp", r.names.address(&bytes)); err == nil {
		_ = conn.Close()
		t.Error("the name of a service that is gone is still listened on")
	}
}

// TestNameBesideWildcard: a route may listen at every address of the machine on
// the port that the service has at its name, whichever comes first; and a
// second wildcard is still found out.
func TestNameBesideWildcard(t *testing.T) {
	for _, nameFirst := range []bool{true, false} {
		r := named(t)
		svc := r.service(model.HTTP, backendServer(t, "web-aaaaaa", text("ok")))
		svc.Routes, svc.Port = nil, port(t)
		every := ":" + strconv.Itoa(svc.Port)
		route := []model.Route{{Listen: every, Host: "only.example.com"}}
		if nameFirst {
			r.apply([]model.TableService{svc})
			svc.Routes = route
		} else {
			port := svc.Port
			svc.Routes, svc.Port = route, 0
			r.apply([]model.TableService{svc})
			svc.Port = port
		}
		st := r.apply([]model.TableService{svc})
		if len(st.Unbound) > 0 {
			t.Fatal(st.Unbound)
		}
		c := client(t, false)
		if _, body := do(t, c, "GET", "http://"+r.names.address(&svc)+"/", nil); body != "ok" {
			t.Errorf("name first %v: by its name %q", nameFirst, body)
		}
		if res, _ := do(t, c, "GET", "http://127.0.0.1"+every+"/", nil); res.StatusCode != 404 {
			t.Errorf("name first %v: the wildcard answers %s", nameFirst, res.Status)
		}
		other := named(t)
		other.names.instance = "ghijkl"
		_, err := other.Apply(model.Table{Epoch: 1, Generation: 1, Services: []model.TableService{{Name: "x", Routes: []model.Route{{Listen: every}}}}})
		if model.CodeOf(err) != model.Conflict {
			t.Errorf("name first %v: two kilns share a route: %v", nameFirst, err)
		}
	}
}

// TestNamesOfTwoKilns: the names of one keep the other from no route.
func TestNamesOfTwoKilns(t *testing.T) {
	one, two := named(t), named(t)
	svc := model.TableService{Name: "web", Port: port(t), Backends: []model.Upstream{backendServer(t, "web-aaaaaa", text("one"))}}
	one.apply([]model.TableService{svc})
	two.address = ":" + strconv.Itoa(svc.Port)
	two.serve(model.HTTP, backendServer(t, "web-bbbbbb", text("two")))
	c := client(t, false)
	if _, body := do(t, c, "GET", "http://"+one.names.address(&svc)+"/", nil); body != "one" {
		t.Errorf("by the name: %q", body)
	}
	if _, body := do(t, c, "GET", "http://127.0.0.1"+two.address+"/", nil); body != "two" {
		t.Errorf("by the route: %q", body)
	}
}

// TestNameThatCannotBeHad keeps no table from being used, is said, and is
// listened on as soon as it can be.
func TestNameThatCannotBeHad(t *testing.T) {
	r := named(t)
	svc := r.service(model.HTTP, backendServer(t, "web-aaaaaa", text("ok")))
	svc.Port = port(t)
	squatter, err := net.Listen("tcp", r.names.address(&svc))
	if err != nil {
		t.Fatal(err)
	}
	st := r.apply([]model.TableService{svc})
	if len(st.Unbound) != 1 || !strings.Contains(st.Unbound[0], "taken by") {
		t.Errorf("unbound: %q", st.Unbound)
	}
	_ = squatter.Close()
	eventually(t, "the name is listened on", func() bool { return len(r.Status().Unbound) == 0 })
	if _, body := do(t, client(t, false), "GET", "http://"+r.names.address(&svc)+"/", nil); body != "ok" {
		t.Errorf("by its name: %q", body)
	}
}

// TestNameNeedsNoAddressYet: the machine may be given the address later.
func TestNameNeedsNoAddressYet(t *testing.T) {
	r := named(t)
	r.names.network = netip.MustParsePrefix("198.51.100.0/24") // for documentation: nobody has it
	svc := r.service(model.HTTP)
	svc.Port = port(t)
	if st := r.apply([]model.TableService{svc}); len(st.Unbound) > 0 {
		t.Error(st.Unbound)
	}
}
