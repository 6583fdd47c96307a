package cli

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"slices"
	"time"

	"kiln/internal/api"
)

// The picture's measures, in its own units.
const (
	pictureWidth, pictureHeight = 760, 400
	plotLeft, plotRight         = 64, 736
	plotTop, plotBottom         = 92, 336
)

// recoveryPicture draws how long services took to be whole again, as a
// histogram.
func recoveryPicture(service string, experiments []api.Experiment) []byte {
	var times []time.Duration
	for _, x := range experiments {
		if x.RecoveredAfter != nil {
			times = append(times, x.RecoveredAfter.D())
		}
	}
	slices.Sort(times)
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="system-ui, sans-serif" font-size="13" fill="#333">
<rect width="100%%" height="100%%" fill="#fff"/>
`, pictureWidth, pictureHeight, pictureWidth, pictureHeight)
	title := "Time until the service was whole again"
	if service != "" {
		title = service + ": time until it was whole again"
	}
	writeText(&b, plotLeft, 34, "start", `font-size="19" font-weight="600" fill="#111"`, title)
	if len(times) == 0 {
		writeText(&b, plotLeft, 60, "start", "", fmt.Sprintf("none of %d experiments has recovered yet", len(experiments)))
	} else {
		writeText(&b, plotLeft, 60, "start", "", fmt.Sprintf("%d of %d experiments recovered · median %s · 95 %% within %s · longest %s",
			len(times), len(experiments), median(times), shortly(times[(len(times)*95+99)/100-1]), longest(times)))
		drawHistogram(&b, times)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func writeText(b *bytes.Buffer, x, y float64, anchor, attributes, text string) {
	if attributes != "" {
		attributes = " " + attributes
	}
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>`+"\n", x, y, anchor, attributes, html.EscapeString(text))
}

func drawLine(b *bytes.Buffer, x1, y1, x2, y2 float64, attributes string) {
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, attributes)
}

// drawHistogram draws the bars, the axes and the median. times are sorted.
func drawHistogram(b *bytes.Buffer, times []time.Duration) {
	width, counts := bins(times)
	most := slices.Max(counts)
	across := float64(plotRight-plotLeft) / float64(len(counts))
	height := func(n int) float64 { return float64(n) / float64(most) * (plotBottom - plotTop) }
	step := max(1, int(niceAbove(float64(most)/5)))
	for n := 0; n <= most; n += step {
		y := plotBottom - height(n)
		drawLine(b, plotLeft, y, plotRight, y, `stroke="#e3e3e3"`)
		writeText(b, plotLeft-10, y+4, "end", "", fmt.Sprint(n))
	}
	for i, n := range counts {
		from, to := time.Duration(i)*width, time.Duration(i+1)*width
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" fill="#c4622d"><title>%s to %s: %d</title></rect>`+"\n",
			plotLeft+float64(i)*across+2, plotBottom-height(n), across-4, height(n), tick(from), tick(to), n)
	}
	every := (len(counts) + 7) / 8
	for i := 0; i <= len(counts); i += every {
		x := plotLeft + float64(i)*across
		drawLine(b, x, plotBottom, x, plotBottom+5, `stroke="#555"`)
		writeText(b, x, plotBottom+20, "middle", "", tick(time.Duration(i)*width))
	}
	drawLine(b, plotLeft, plotBottom, plotRight, plotBottom, `stroke="#555"`)
	at := plotLeft + float64(middle(times))/float64(width)*across
	drawLine(b, at, plotTop-8, at, plotBottom, `stroke="#111" stroke-width="1.5" stroke-dasharray="5 4"`)
	anchor, x := "start", at+6
	if at > (plotLeft+plotRight)/2 {
		anchor, x = "end", at-6
	}
	writeText(b, x, plotTop-4, anchor, `fill="#111"`, "median "+median(times))
	writeText(b, (plotLeft+plotRight)/2, plotBottom+46, "middle", "", "time from the disturbance until all servers were healthy again")
	fmt.Fprintf(b, `<text transform="translate(20 %d) rotate(-90)" text-anchor="middle">experiments</text>`+"\n", (plotTop+plotBottom)/2)
}

// bins counts the times in intervals of a width that reads well, from zero on.
func bins(times []time.Duration) (width time.Duration, counts []int) {
	const about = 16
	longest := times[len(times)-1].Seconds()
	width = time.Duration(niceAbove(max(longest, 0.01)/about) * float64(time.Second))
	counts = make([]int, int(times[len(times)-1]/width)+1)
	for _, t := range times {
		counts[int(t/width)]++
	}
	return width, counts
}

// niceAbove returns the least of 1, 2, 5, 10, 20, … (or 0.5, 0.2, …) that is not
// below x.
func niceAbove(x float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, n := range []float64{1, 2, 5} {
		if n*power >= x*(1-1e-9) {
			return n * power
		}
	}
	return 10 * power
}

// tick writes a time on an axis.
func tick(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	if d < time.Second {
		return fmt.Sprintf("%g ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%g s", math.Round(d.Seconds()*1000)/1000)
}
