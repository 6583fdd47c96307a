package contents

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"kiln/internal/layers"
	"kiln/internal/layers/layertest"
	"kiln/internal/model"
)

// debianLike is an image such as a small service's on Debian: a base layer with 300
// packages in 6000 files of about 4 KB each, and a layer above that upgrades ten
// packages and brings 200 files of its own, of which seed says what is in them.
func debianLike(b *testing.B, seed uint64) v1.Image {
	b.Helper()
	words := rand.New(rand.NewPCG(1, 0)) //nolint:gosec // the contents of files in a benchmark
	text := func(size int) string {
		var s strings.Builder
		for s.Len() < size {
			fmt.Fprintf(&s, "%x\n", words.Uint64())
		}
		return s.String()
	}
	status := func(upgraded int) layertest.File {
		var s strings.Builder
		for i := range 300 {
			version := "1.2.3-1"
			if i < upgraded {
				version = fmt.Sprintf("1.2.3-1+deb13u%d", seed)
			}
			s.WriteString(stanza(fmt.Sprintf("package-%d", i), version, "Source: source\nMaintainer: Somebody <somebody@example.com>\nDepends: libc6 (>= 2.38), libgcc-s1 (>= 4.2)\n"))
		}
		return layertest.File{Name: "var/lib/dpkg/status", Text: s.String()}
	}
	base := []layertest.File{{Name: "etc/os-release", Text: debianRelease}, status(0)}
	for i := range 6000 {
		base = append(base, layertest.File{Name: fmt.Sprintf("usr/share/package-%d/dir-%d/file-%d", i/20, i%4, i), Text: text(words.IntN(8_000))})
	}
	words = rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // as above
	above := []layertest.File{status(10)}
	for i := range 200 {
		above = append(above, layertest.File{Name: fmt.Sprintf("srv/app/file-%d", i), Text: text(words.IntN(8_000))})
	}
	return layertest.Image(b, layertest.Files(b, base...), layertest.Files(b, above...))
}

// perByte says how fast an image's archives were gone through.
func perByte(b *testing.B, images ...v1.Image) {
	b.Helper()
	var total int64
	for _, img := range images {
		s, err := Reader{}.scan(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		seen, err := s.image(img)
		s.close()
		if err != nil {
			b.Fatal(err)
		}
		for _, n := range seen.unpacked {
			total += n
		}
	}
	b.SetBytes(total)
	b.ReportAllocs()
	before := cpuTime(b)
	b.Cleanup(func() {
		b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
	})
}

// cpuTime is the time that the process has computed for: what a benchmark costs on a
// machine that does other things too.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkWalk(b *testing.B) {
	img := debianLike(b, 2)
	perByte(b, img)
	for b.Loop() {
		all, err := layers.Of(b.Context(), img)
		if err != nil {
			b.Fatal(err)
		}
		w := layers.NewWalker(layers.Limits{})
		for _, l := range all {
			if _, err := w.Walk(b.Context(), l, func(*layers.Entry) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkSBOM(b *testing.B) {
	img := debianLike(b, 2)
	perByte(b, img)
	for b.Loop() {
		list, err := Packages(b.Context(), img)
		if err != nil || len(list.Packages) != 300 {
			b.Fatal(err, len(list.Packages))
		}
		bill := Bill{Image: model.Digest(someDigest), Inventory: list}
		if _, err := bill.SPDX(); err != nil {
			b.Fatal(err)
		}
		if _, err := bill.CycloneDX(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSBOMOfNextImage is BenchmarkSBOM where the base is known.
func BenchmarkSBOMOfNextImage(b *testing.B) {
	known := Reader{Memory: &Memory{}}
	if _, err := known.Packages(b.Context(), debianLike(b, 1)); err != nil {
		b.Fatal(err)
	}
	img := debianLike(b, 2)
	perByte(b, img)
	for b.Loop() {
		for d, m := range known.Memory.layers { // all but the base
			if len(m.entries) < 1000 {
				known.Memory.room -= m.room
				delete(known.Memory.layers, d)
			}
		}
		list, err := known.Packages(b.Context(), img)
		if err != nil || len(list.Packages) != 300 {
			b.Fatal(err, len(list.Packages))
		}
	}
}

// BenchmarkDiff compares two images that share their base, as those of a service do.
func BenchmarkDiff(b *testing.B) {
	x, y := debianLike(b, 2), debianLike(b, 3)
	perByte(b, x)
	for b.Loop() {
		d, err := Diff(b.Context(), x, y)
		if err != nil || len(d.Packages) != 10 || len(d.Files) < 200 {
			b.Fatal(err, len(d.Packages), len(d.Files))
		}
	}
}

// BenchmarkDiffOfStrangers compares two images of which no layer is the same.
func BenchmarkDiffOfStrangers(b *testing.B) {
	x := debianLike(b, 2)
	layers, err := x.Layers()
	if err != nil {
		b.Fatal(err)
	}
	y := layertest.Image(b, layertest.Files(b, layertest.File{Name: "first"}), layers[0], layers[1])
	perByte(b, x, y)
	for b.Loop() {
		d, err := Diff(b.Context(), x, y)
		if err != nil || len(d.Files) != 1 {
			b.Fatal(err, len(d.Files))
		}
	}
}
