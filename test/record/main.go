// Command record runs a program, shows what it prints, and draws the lines that
// matter as a moving picture of a terminal (SVG), and as text beside it. README's picture is made by
// it from a real run: go run ./test/record -out docs/demo.svg scripts/demo
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// line is one line of output and when it came.
type line struct {
	at   time.Duration
	text string
}

func main() {
	out := flag.String("out", "docs/demo.svg", "the picture")
	drop := flag.String("drop", `(shall exist for|is running at|: provisioning:|: checking:|: validating:|: preparing:|is serving:|is warm:|is drained:|passed its validations|is healthy:|load build|load \.docker|^\{|stays until|: in service for|took its place|is ready: passed|exporting to image|CACHED|\] FROM |release \d+ is in service$|bin/kiln: |^building bin|kiln version$|^kiln  |^daemon  |^Get:|^W: |make demo-down|KILN_DATA_DIR)`, "lines that are left out")
	last := flag.String("last", `requests in .* failed`, "the picture ends after the last line like this")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: record [-out FILE] COMMAND…")
		os.Exit(2)
	}
	if err := record(*out, *drop, *last, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func record(out, drop, last string, command []string) error {
	unwanted, err := regexp.Compile(drop)
	if err != nil {
		return err
	}
	ending, err := regexp.Compile(last)
	if err != nil {
		return err
	}
	lines, err := run(command)
	if err != nil {
		return err
	}
	var kept []line
	end := 0
	for _, l := range lines {
		again := l.text == "" && (len(kept) == 0 || kept[len(kept)-1].text == "")
		if !again && !unwanted.MatchString(l.text) {
			kept = append(kept, l)
		}
		if ending.MatchString(l.text) {
			end = len(kept)
		}
	}
	if end > 0 {
		kept = kept[:end]
	}
	var text strings.Builder
	for _, l := range kept {
		text.WriteString(l.text + "\n")
	}
	if err := os.WriteFile(strings.TrimSuffix(out, ".svg")+".txt", []byte(text.String()), 0o644); err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	return errors.Join(draw(f, kept), f.Close())
}

// run runs the command and returns its lines, standard error among them.
func run(command []string) ([]line, error) {
	cmd := exec.Command(command[0], command[1:]...)
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		_ = write.Close() // never fails
		ended <- err
	}()
	var lines []line
	scanner := bufio.NewScanner(read)
	for scanner.Scan() {
		fmt.Println(scanner.Text())
		lines = append(lines, line{time.Since(began), strings.TrimRight(scanner.Text(), " \r")})
	}
	return lines, errors.Join(scanner.Err(), <-ended)
}

// The picture's measures.
const (
	columns    = 112
	rows       = 26 // that are seen at once
	lineHeight = 18
	charWidth  = 7.85
	longestGap = 1500 * time.Millisecond // a pause is shown no longer
	readAtEnd  = 8 * time.Second
)

// draw writes the picture: every line appears when its time has come, and the
// text moves up when the window is full. Pauses are shortened.
func draw(w io.Writer, lines []line) error {
	at := make([]time.Duration, len(lines))
	var now, before time.Duration
	for i, l := range lines {
		now += min(max(l.at-before, 60*time.Millisecond), longestGap)
		before, at[i] = l.at, now
	}
	total := now + readAtEnd
	width, height := columns*charWidth+32, rows*lineHeight+48
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 %.0f %d" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,monospace" font-size="13">
<title>kiln: two applications deployed, replaced under load and rolled back, recorded from a real run</title>
<rect width="100%%" height="100%%" rx="8" fill="#16191d"/>
<circle cx="18" cy="16" r="5" fill="#ff5f57"/><circle cx="36" cy="16" r="5" fill="#febc2e"/><circle cx="54" cy="16" r="5" fill="#28c840"/>
<clipPath id="c"><rect x="0" y="30" width="100%%" height="%d"/></clipPath>
<style>text{white-space:pre;fill:#cdd3da;animation:show 1ms backwards}@keyframes show{from{opacity:0}}.h{fill:#7fd1a0;font-weight:bold}.p{fill:#fff;font-weight:bold}.g{fill:#8ec7ff}
`, width, height, height-36)
	scroll(b, at, total)
	fmt.Fprint(b, "</style>\n<g clip-path=\"url(#c)\"><g class=\"all\">\n")
	for i, l := range lines {
		// Who shows no animation shows every line.
		fmt.Fprintf(b, `<text x="16" y="%d" class="%s" style="animation-delay:%.2fs">%s</text>`+"\n",
			48+i*lineHeight, kind(l.text), at[i].Seconds(), html.EscapeString(cut(l.text)))
	}
	fmt.Fprint(b, "</g></g></svg>\n")
	return b.Flush()
}

// scroll moves the text up, a line at a time, once the window is full.
func scroll(w io.Writer, at []time.Duration, total time.Duration) {
	fmt.Fprintf(w, ".all{animation:up %.2fs steps(1) forwards}@keyframes up{0%%{transform:translateY(0)}", total.Seconds())
	for i := rows; i < len(at); i++ {
		fmt.Fprintf(w, "%.3f%%{transform:translateY(%dpx)}", 100*at[i].Seconds()/total.Seconds(), -(i-rows+1)*lineHeight)
	}
	fmt.Fprintf(w, "100%%{transform:translateY(%dpx)}}\n", -max(0, len(at)-rows)*lineHeight)
}

// kind tells headings, commands and good news apart.
func kind(text string) string {
	switch {
	case strings.HasPrefix(text, "# "):
		return "h"
	case regexp.MustCompile(`^\S*\$ `).MatchString(text):
		return "p"
	case strings.Contains(text, "in service") || strings.Contains(text, " 0 failed"):
		return "g"
	default:
		return "t"
	}
}

func cut(text string) string {
	if r := []rune(text); len(r) > columns {
		return string(r[:columns-1]) + "…"
	}
	return text
}
