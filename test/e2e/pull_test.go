package e2e_test

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"
)

// others serves a registry that is not kiln's, with an image of so many layers of so
// many MiB that cannot be compressed. With a pause it waits so long in each layer.
func others(ts *testscript.TestScript, _ bool, args []string) {
	want(ts, len(args) == 3 || len(args) == 4, "others PORT NAME:TAG LAYERSxMIB [PAUSE]")
	var layers, mib int64
	_, err := fmt.Sscanf(args[2], "%dx%d", &layers, &mib)
	check(ts, err)
	var pause time.Duration
	if len(args) == 4 {
		pause, err = time.ParseDuration(args[3])
		check(ts, err)
	}
	img, err := random.Image(mib<<20, layers)
	check(ts, err)
	config, err := img.ConfigFile()
	check(ts, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	img, err = mutate.ConfigFile(img, config)
	check(ts, err)
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	l, err := net.Listen("tcp", "127.0.0.1:"+args[0])
	check(ts, err)
	filled := false
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if filled && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			w = &hesitant{w, pause}
		}
		handler.ServeHTTP(w, r)
	})}}
	server.Start()
	ts.Defer(server.Close)
	ref, err := name.ParseReference(l.Addr().String()+"/"+args[1], name.Insecure)
	check(ts, err)
	check(ts, remote.Write(ref, img))
	filled = true
}

// hesitant waits once, in the middle of what is long.
type hesitant struct {
	http.ResponseWriter
	pause time.Duration
}

func (h *hesitant) Write(p []byte) (int, error) {
	if len(p) < 1<<20 || h.pause == 0 {
		return h.ResponseWriter.Write(p)
	}
	n, err := h.ResponseWriter.Write(p[:len(p)/2])
	if err == nil {
		_ = http.NewResponseController(h.ResponseWriter).Flush()
		time.Sleep(h.pause)
		h.pause = 0
		var rest int
		rest, err = h.ResponseWriter.Write(p[n:])
		n += rest
	}
	return n, err
}
