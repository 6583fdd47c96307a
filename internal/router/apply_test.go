package router

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
)

func TestOlderTablesAreRefused(t *testing.T) {
	r := startRouter(t, Limits{})
	a := backendServer(t, "web-aaaaaa", text("a"))
	table := func(epoch, generation uint64, backends ...model.Upstream) model.Table {
		return model.Table{Epoch: epoch, Generation: generation, Services: []model.TableService{r.service(model.HTTP, backends...)}}
	}
	if _, err := r.Apply(table(2, 5, a)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		table model.Table
		code  model.Code
	}{
		{"older generation", table(2, 4, a), model.Conflict},
		{"older epoch, higher generation", table(1, 9, a), model.Conflict},
		{"the same number, another table", table(2, 5), model.Conflict},
		{"the same again", table(2, 5, a), ""},
		{"newer epoch, lower generation", table(3, 1, a), ""},
	} {
		before := r.current.Load()
		st, err := r.Apply(c.table)
		if model.CodeOf(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.code != "" && r.current.Load() != before {
			t.Errorf("%s: refused, and applied", c.name)
		}
		if c.code == "" && (st.Epoch != c.table.Epoch || st.Generation != c.table.Generation) {
			t.Errorf("%s: acknowledged %d.%d", c.name, st.Epoch, st.Generation)
		}
	}
	if id := r.Status().ID; id != r.Status().ID || id == startRouter(t, Limits{}).Status().ID {
		t.Error("the id is not that of the process")
	}
}

// TestRefusedTableChangesNothing: with one port taken, no other one is bound,
// nothing is written, and the old table serves.
func TestRefusedTableChangesNothing(t *testing.T) {
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", text("old")))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	before, err := os.ReadFile(r.store.path())
	if err != nil {
		t.Fatal(err)
	}
	free := freeAddress(t)
	svc := r.service(model.HTTP, backendServer(t, "web-bbbbbb", text("new")))
	svc.Routes = append(svc.Routes, model.Route{Listen: free}, model.Route{Listen: taken.Addr().String()})
	_, err = r.Apply(model.Table{Epoch: 1, Generation: 2, Services: []model.TableService{svc}})
	if model.CodeOf(err) != model.Conflict || !strings.Contains(err.Error(), "taken by") {
		t.Errorf("taken port: %v", err)
	}
	if after, _ := os.ReadFile(r.store.path()); string(after) != string(before) {
		t.Error("the refused table was written")
	}
	if _, body := do(t, client(t, false), "GET", r.url("/"), nil); body != "old" {
		t.Errorf("the old table does not serve: %q", body)
	}
	l, err := net.Listen("tcp", free)
	if err != nil {
		t.Errorf("the refused table left a listener: %v", err)
	} else {
		_ = l.Close()
	}
	// The same number again, without what was wrong, is taken.
	svc.Routes = svc.Routes[:2]
	if _, err := r.Apply(model.Table{Epoch: 1, Generation: 2, Services: []model.TableService{svc}}); err != nil {
		t.Error(err)
	}
}

// TestUnwritableTableChangesNothing: what cannot be made durable is not done.
func TestUnwritableTableChangesNothing(t *testing.T) {
	r := startRouter(t, Limits{})
	r.serve(model.HTTP, backendServer(t, "web-aaaaaa", text("old")))
	r.store.dir = "/proc/nowhere"
	free := freeAddress(t)
	svc := r.service(model.HTTP)
	svc.Routes = append(svc.Routes, model.Route{Listen: free})
	if _, err := r.Apply(model.Table{Epoch: 1, Generation: 2, Services: []model.TableService{svc}}); model.CodeOf(err) != model.Unavailable {
		t.Errorf("unwritable: %v", err)
	}
	if _, body := do(t, client(t, false), "GET", r.url("/"), nil); body != "old" {
		t.Errorf("the old table does not serve: %q", body)
	}
	if conn, err := net.DialTimeout("tcp", free, time.Second); err == nil {
		_ = conn.Close()
		t.Error("a listener is left")
	}
}

func TestTablesThatCannotBeMeant(t *testing.T) {
	up := func(id, address string) model.Upstream {
		return model.Upstream{Server: model.ServerID(id), Address: address}
	}
	route := func(listen, host, path string) []model.Route {
		return []model.Route{{Listen: listen, Host: host, Path: path}}
	}
	for name, services := range map[string][]model.TableService{
		"service twice":        {{Name: "a"}, {Name: "a"}},
		"unnamed":              {{}},
		"unknown protocol":     {{Name: "a", Protocol: "udp"}},
		"server in two":        {{Name: "a", Backends: []model.Upstream{up("s", "1.2.3.4:1")}}, {Name: "b", Backends: []model.Upstream{up("s", "1.2.3.4:1")}}},
		"address without port": {{Name: "a", Backends: []model.Upstream{up("s", "1.2.3.4")}}},
		"address with a name":  {{Name: "a", Backends: []model.Upstream{up("s", "host:80")}}},
		"listen without port":  {{Name: "a", Routes: route("127.0.0.1", "", "")}},
		"listen on a name":     {{Name: "a", Routes: route("localhost:80", "", "")}},
		"listen port too high": {{Name: "a", Routes: route(":70000", "", "")}},
		"star inside a host":   {{Name: "a", Routes: route(":80", "a.*.b", "")}},
		"the same route twice": {{Name: "a", Routes: route(":80", "x.com", "/p/")}, {Name: "b", Routes: route(":80", "X.com.", "p")}},
		"tcp and http on one":  {{Name: "a", Protocol: model.TCP, Routes: route(":80", "", "")}, {Name: "b", Protocol: model.HTTP, Routes: route(":80", "b", "")}},
		"http and tcp on one":  {{Name: "a", Protocol: model.HTTP, Routes: route(":80", "", "")}, {Name: "b", Protocol: model.TCP, Routes: route(":80", "b", "")}},
		"two tcp on one":       {{Name: "a", Protocol: model.TCP, Routes: route(":80", "a", "")}, {Name: "b", Protocol: model.TCP, Routes: route(":80", "b", "")}},
	} {
		err := checkTable(&model.Table{Epoch: 1, Generation: 1, Services: services})
		if code := model.CodeOf(err); code != model.Invalid && code != model.Conflict {
			t.Errorf("%s: %v", name, err)
		}
	}
	draining := model.Table{Services: []model.TableService{{Name: "a", Backends: []model.Upstream{up("s", "1.2.3.4:1")}}}, Draining: []model.Draining{{Server: "s"}}}
	if err := checkTable(&draining); model.CodeOf(err) != model.Invalid {
		t.Errorf("serving and draining: %v", err)
	}
}

// TestListenersComeAndGo: a removed listener refuses, a kept one is not
// touched, and a connection that is open to a removed one finds no route.
func TestListenersComeAndGo(t *testing.T) {
	r := startRouter(t, Limits{})
	other := freeAddress(t)
	svc := r.service(model.HTTP, backendServer(t, "web-aaaaaa", text("ok")))
	both := svc
	both.Routes = append(both.Routes[:1:1], model.Route{Listen: other})
	r.apply([]model.TableService{both})
	kept := client(t, false)
	if res, _ := do(t, kept, "GET", "http://"+other+"/", nil); res.StatusCode != 200 {
		t.Fatalf("second listener: %s", res.Status)
	}
	r.apply([]model.TableService{svc})
	if res, _ := do(t, kept, "GET", "http://"+other+"/", nil); res.StatusCode != 404 {
		t.Errorf("an open connection to a removed listener: %s", res.Status)
	}
	if conn, err := net.DialTimeout("tcp", other, time.Second); err == nil {
		_ = conn.Close()
		t.Error("the removed listener still accepts")
	}
	r.apply([]model.TableService{both})
	if res, _ := do(t, client(t, false), "GET", "http://"+other+"/", nil); res.StatusCode != 200 {
		t.Errorf("the listener that came back: %s", res.Status)
	}
}
