package router

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"kiln/internal/model"
)

// canaryOf returns a service with an old and a new server, and a split.
func canaryOf(t *testing.T, r *testRouter, protocol model.Protocol, weight int) model.TableService {
	t.Helper()
	previous := backendServer(t, "web-oldold", text("old"))
	next := backendServer(t, "web-newnew", text("new"))
	next.Release = 2
	svc := r.service(protocol, previous, next)
	svc.Split = &model.Split{Release: 2, Weight: weight}
	return svc
}

// TestSplitShare: within any thousand requests the share is the weight, and
// the counters say so.
func TestSplitShare(t *testing.T) {
	for _, protocol := range []model.Protocol{model.HTTP, model.H2C} {
		for _, weight := range []int{0, 10, 50, 99} {
			r := startRouter(t, Limits{})
			svc := canaryOf(t, r, protocol, weight)
			r.apply([]model.TableService{svc})
			c := client(t, protocol == model.H2C)
			fresh := 0
			for range 1000 {
				res, body := do(t, c, "GET", r.url("/"), nil)
				if len(res.Header["Set-Cookie"]) > 0 {
					t.Fatal("a cookie though none is declared")
				}
				if body == "new" {
					fresh++
				}
			}
			if off := fresh - 10*weight; off < -20 || off > 20 {
				t.Errorf("%s: %d of 1000 requests went to the new side, its weight is %d %%", protocol, fresh, weight)
			}
			for _, k := range r.Counters().Counters {
				if k.Release == 2 && int(k.Requests) != fresh {
					t.Errorf("the counters have %d requests of the new release, it answered %d", k.Requests, fresh)
				}
			}
		}
	}
}

// TestDrawHasNoRhythm: also those of every second draw are shared by weight.
func TestDrawHasNoRhythm(t *testing.T) {
	s := newSplit(&model.Split{Release: 2, Weight: 10})
	even, all := 0, 0
	for n := range 100_000 {
		if s.draw() < 10 {
			all++
			if n%2 == 0 {
				even++
			}
		}
	}
	if all != 10_000 {
		t.Errorf("%d of 100000 draws are below 10", all)
	}
	if even < 4000 || even > 6000 {
		t.Errorf("of %d draws below 10, %d were even ones", all, even)
	}
}

// TestDrawSpreads: neither side waits long for its turn.
func TestDrawSpreads(t *testing.T) {
	for _, weight := range []int{5, 10, 20, 50, 80, 95} {
		s := newSplit(&model.Split{Release: 2, Weight: weight})
		var inRow [2]int // draws of one side since the other's last
		for range 10_000 {
			side := 0
			if s.draw() < weight {
				side = 1
			}
			inRow[side]++
			inRow[1-side] = 0
			// Twice the expected distance in one hundred, and as much in the next.
			if most := 4 * 100 / min(weight, 100-weight); inRow[side] > most {
				t.Fatalf("weight %d: %d draws in a row are on one side", weight, inRow[side])
			}
		}
	}
}

// TestCookieKeepsTheSide: a visitor gets a place, keeps it, and with a rising
// weight goes to the new side once and never back.
func TestCookieKeepsTheSide(t *testing.T) {
	r := startRouter(t, Limits{})
	svc := canaryOf(t, r, model.HTTP, 0)
	svc.Split.Cookie = "kiln-canary"
	svc.Split.Header = "X-Canary"
	c := client(t, false)
	ask := func(cookie, header string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", r.url("/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if cookie != "" {
			req.Header.Set("Cookie", "a=b; kiln-canary="+cookie+"; kiln-canary=x")
		}
		req.Header.Set("X-Canary", header)
		return doRequest(t, c, req)
	}
	r.apply([]model.TableService{svc})
	seen := map[int]bool{}
	for range places {
		res, _ := ask("", "")
		k := res.Cookies()
		if len(k) != 1 || k[0].Path != "/" || !k[0].HttpOnly || k[0].Secure || k[0].SameSite != http.SameSiteLaxMode || k[0].MaxAge != 0 || !k[0].Expires.IsZero() {
			t.Fatalf("cookie %+v", k)
		}
		place, ok := parsePlace(k[0].Value)
		if !ok {
			t.Fatalf("place %q", k[0].Value)
		}
		seen[place] = true
	}
	if len(seen) != places {
		t.Errorf("100 visitors got %d different places", len(seen))
	}
	for _, weight := range []int{1, 10, 50, 99} {
		svc.Split = &model.Split{Release: 2, Weight: weight, Cookie: "kiln-canary", Header: "X-Canary"}
		r.apply([]model.TableService{svc})
		for place := range places {
			res, body := ask(strconv.Itoa(place), "")
			if (body == "new") != (place < weight) {
				t.Errorf("at %d %% place %d is on the %s side", weight, place, body)
			}
			if len(res.Cookies()) > 0 {
				t.Error("a visitor who has a place is given another")
			}
		}
		if _, body := ask("0", "Never"); body != "old" {
			t.Error(`"never" went to the new side`)
		}
		if _, body := ask("99", "always"); body != "new" {
			t.Error(`"always" went to the old side`)
		}
	}
	for _, bad := range []string{"100", "-1", "007", "x", "1e1"} {
		if res, _ := ask(bad, ""); len(res.Cookies()) != 1 {
			t.Errorf("the invalid place %q was not replaced", bad)
		}
	}
}

// TestSplitFallsBack: a side without a server that can be reached leaves its
// requests to the other, whichever it is.
func TestSplitFallsBack(t *testing.T) {
	for _, weight := range []int{0, 100} {
		r := startRouter(t, Limits{})
		svc := canaryOf(t, r, model.HTTP, weight)
		want := "new"
		dead := 0
		if weight == 100 {
			want, dead = "old", 1
		}
		svc.Backends[dead].Address = freeAddress(t)
		r.apply([]model.TableService{svc})
		c := client(t, false)
		for range 20 {
			if res, body := do(t, c, "POST", r.url("/"), strings.NewReader("x")); res.StatusCode != 200 || body != want {
				t.Errorf("%s %q", res.Status, body)
			}
		}
	}
}

// TestSplitOtherProtocols: websockets and plain connections are shared too.
func TestSplitOtherProtocols(t *testing.T) {
	r := startRouter(t, Limits{})
	e := newEverything()
	defer e.release()
	up := backendServer(t, "web-newnew", e)
	up.Release = 2
	svc := r.service(model.HTTP, backendServer(t, "web-oldold", text("old")), up)
	svc.Split = &model.Split{Release: 2, Weight: 100, Cookie: "c"}
	r.apply([]model.TableService{svc})
	for range 5 {
		conn, res, err := websocket.DefaultDialer.Dial("ws://"+r.address+"/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Cookies()) != 1 {
			t.Errorf("cookies of a websocket: %v", res.Cookies())
		}
		_ = res.Body.Close()
		_ = conn.Close()
	}

	r = startRouter(t, Limits{})
	previous := scriptedServer(t, "web-oldold", func(*scripted, int64, *net.TCPConn) {})
	fresh := scriptedServer(t, "web-newnew", func(*scripted, int64, *net.TCPConn) {})
	fresh.Release = 2
	svc = r.service(model.TCP, previous.Upstream, fresh.Upstream)
	svc.Split = &model.Split{Release: 2, Weight: 25}
	r.apply([]model.TableService{svc})
	for range places {
		var d net.Dialer
		conn, err := d.DialContext(context.Background(), "tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if n := fresh.conns.Load(); n != 25 {
		t.Errorf("of 100 connections %d went to the new side, its weight is 25 %%", n)
	}
}

func TestSplitThatCannotBeMeant(t *testing.T) {
	r := startRouter(t, Limits{})
	for _, bad := range []model.Split{{Weight: 101}, {Weight: -1}, {Cookie: "a b"}, {Cookie: "a;b"}, {Header: "a\r\nb"}} {
		svc := r.service(model.HTTP)
		svc.Split = &bad
		if _, err := r.Apply(model.Table{Epoch: 1, Generation: 1, Services: []model.TableService{svc}}); model.CodeOf(err) != model.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
