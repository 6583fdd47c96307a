package audit

import (
	"bytes"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// browser runs chromium on the page and returns what it prints.
func browser(t *testing.T, page string, args ...string) []byte {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("the page has to be looked at: scripts/packages test installs a browser: %v", err)
	}
	args = append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
		"--hide-scrollbars", "--user-data-dir=" + t.TempDir(),
		"--host-resolver-rules=MAP * ~NOTFOUND", // it asks nobody
	}, args...)
	cmd := exec.CommandContext(t.Context(), program, append(args, "file://"+page)...)
	cmd.WaitDelay = time.Minute
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium: %v\n%s", err, said.Bytes())
	}
	return out
}

// TestInABrowser looks at the page as people do: on a screen, and printed.
// KILN_AUDIT_PAGES names a directory where what was seen is kept.
func TestInABrowser(t *testing.T) {
	dir := os.Getenv("KILN_AUDIT_PAGES")
	if dir == "" {
		dir = t.TempDir()
	}
	page := filepath.Join(dir, "report.html")
	var out bytes.Buffer
	if err := story("").HTML(&out); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(page, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if found := regexp.MustCompile(`(?i)(src|href)=|url\(|@import|<script`).FindString(out.String()); found != "" {
		t.Errorf("the page needs more than itself: %s", found)
	}
	if strings.Contains(out.String(), "never-shown") {
		t.Error("the page shows a secret of the environment")
	}
	seen := string(browser(t, page, "--dump-dom"))
	for _, want := range []string{
		"The journal is whole.", `<code class="id">s-abcdef</code>`, "/usr/bin/miner", "failed by 1, passed by 0", "ticket 4004 &lt;b&gt;: prices with VAT", `left:0.00%`, "None in this time: images in service",
	} {
		if !strings.Contains(seen, want) {
			t.Errorf("the browser's page does not say %q", want)
		}
	}
	picture := filepath.Join(dir, "report.png")
	browser(t, page, "--window-size=1280,2600", "--screenshot="+picture)
	lookAt(t, picture)
	printed := filepath.Join(dir, "report.pdf")
	browser(t, page, "--no-pdf-header-footer", "--print-to-pdf="+printed)
	pdf, err := os.ReadFile(printed)
	if err != nil || !bytes.HasPrefix(pdf, []byte("%PDF-")) {
		t.Fatalf("nothing was printed: %v", err)
	}
	if n := len(regexp.MustCompile(`/Type\s*/Page\b`).FindAll(pdf, -1)); n < 2 || n > 10 {
		t.Errorf("it is printed on %d pages", n)
	}
}

// lookAt finds the ink and the verdict's colour on the picture.
func lookAt(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	good, ink, lowest := 0, 0, 0
	each(img, func(_, y int, r, g, b uint32) {
		switch {
		case g > r+30 && g > b+20 && r < 110: // of the verdict and its line
			good++
		case r < 80 && g < 80 && b < 80:
			ink, lowest = ink+1, max(lowest, y)
		}
	})
	if good < 200 || ink < 10_000 || lowest < img.Bounds().Dy()/2 {
		t.Errorf("the picture has %d dots of good news, %d of ink, the lowest at %d of %d", good, ink, lowest, img.Bounds().Dy())
	}
}

func each(img image.Image, dot func(x, y int, r, g, b uint32)) {
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y++ {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
			r, g, b, _ := img.At(x, y).RGBA()
			dot(x, y, r>>8, g>>8, b>>8)
		}
	}
}
