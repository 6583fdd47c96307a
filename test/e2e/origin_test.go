package e2e_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kiln/test/outside"
)

// origin is a host beyond this machine from which builds fetch: a network
// namespace with a link to it.
type origin struct {
	link    string
	address string
	inside  *os.File // the namespace
	server  *http.Server
	serving sync.WaitGroup

	mu    sync.Mutex
	asked map[string]int
}

// originCommand starts the script's origin, at $ORIGIN, or stops it: nobody answers
// there any more. What it serves is below the directory www, and: /file/NAME, /count,
// /empty, /redirect, /flaky.
func originCommand(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 1 && (args[0] == "start" || args[0] == "stop"), "origin start|stop")
	w := of(ts)
	if args[0] == "stop" {
		w.origin.stop()
		return
	}
	if w.origin == nil {
		port, err := strconv.Atoi(ts.Getenv("PORT")) // each script has another
		check(ts, err)
		n := port % 64
		for taken(fmt.Sprintf("198.51.100.%d", 4*n+1)) {
			n = (n + 1) % 64
		}
		o := &origin{link: fmt.Sprintf("kt%dorg", port), address: fmt.Sprintf("198.51.100.%d", 4*n+2), asked: map[string]int{}}
		w.origin = o
		check(ts, inThread(func() error { return o.connect(fmt.Sprintf("198.51.100.%d", 4*n+1)) }))
		certificate(ts, false, []string{o.address, "origin"})
		w.Variables = append(w.Variables, "SSL_CERT_FILE="+ts.MkAbs("origin/cert.pem"))
		ts.Setenv("ORIGIN", o.address)
	}
	pair, err := tls.LoadX509KeyPair(ts.MkAbs("origin/cert.pem"), ts.MkAbs("origin/key.pem"))
	check(ts, err)
	check(ts, w.origin.start(w.origin.handler(ts.MkAbs("www")), pair))
}

// start serves in the namespace.
func (o *origin) start(h http.Handler, pair tls.Certificate) error {
	var plain, secure net.Listener
	err := inThread(func() (err error) {
		if err = unix.Setns(int(o.inside.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		if plain, err = net.Listen("tcp", o.address+":80"); err != nil {
			return err
		}
		secure, err = net.Listen("tcp", o.address+":443")
		return err
	})
	if err != nil {
		return err
	}
	o.server = &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	o.serving.Go(func() { _ = o.server.Serve(plain) })
	o.serving.Go(func() {
		_ = o.server.Serve(tls.NewListener(secure, &tls.Config{Certificates: []tls.Certificate{pair}}))
	})
	return nil
}

// stop ends the server; the host stays, so that nothing that is meant for it goes
// anywhere else.
func (o *origin) stop() {
	if o.server != nil {
		_ = o.server.Close()
	}
	o.serving.Wait()
}

// connect makes the host, and near this machine's end of the link to it.
func (o *origin) connect(near string) error {
	return outside.Link(o.link, near, o.address, func() (err error) {
		o.inside, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
}

// inThread runs do on a thread of its own, whose namespace it may change.
func inThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- do()
	}()
	return <-done
}

// taken reports whether this machine has the address, for another script's origin.
func taken(address string) bool {
	all, _ := netlink.AddrList(nil, netlink.FAMILY_V4) // what cannot be listed fails when it is made
	for _, a := range all {
		if a.IP.String() == address {
			return true
		}
	}
	return false
}

// handler serves what builds fetch.
func (o *origin) handler(www string) http.Handler {
	times := func(r *http.Request) int {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.asked[r.URL.Path]++
		return o.asked[r.URL.Path]
	}
	mux := http.NewServeMux()
	mux.Handle("/www/", http.StripPrefix("/www/", http.FileServer(http.Dir(www))))
	mux.HandleFunc("/file/", func(w http.ResponseWriter, r *http.Request) {
		at := time.Date(2024, 2, 29, 1, 2, 3, 0, time.UTC)
		http.ServeContent(w, r, path.Base(r.URL.Path)+".txt", at, strings.NewReader("the file "+path.Base(r.URL.Path)+"\n"))
	})
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, times(r)) })
	mux.HandleFunc("/empty", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/file/redirected", http.StatusFound)
	})
	mux.HandleFunc("/flaky", func(w http.ResponseWriter, r *http.Request) {
		if times(r)%2 == 1 {
			http.Error(w, "later", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "at last")
	})
	return mux
}

// removeOrigin takes the host off the machine.
func (w *world) removeOrigin() {
	if w.origin == nil {
		return
	}
	w.origin.stop()
	if l, err := netlink.LinkByName(w.origin.link); err == nil {
		_ = netlink.LinkDel(l)
	}
	if w.origin.inside != nil {
		w.origin.inside.Close()
	}
}
