package telemetry

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
)

// nameLabel is the label that is a series' name.
const nameLabel = "__name__"

// kind is what a metric's values mean.
type kind string

const (
	counter   kind = "counter"   // grows, begins again at 0
	gauge     kind = "gauge"     // goes up and down
	histogram kind = "histogram" // counters of the values up to a bound
)

// metric describes one metric.
type metric struct {
	name string
	kind kind
	help string
}

// family is a metric with its present samples.
type family struct {
	metric
	samples []sample
}

// sample is one value. Its labels include the name.
type sample struct {
	labels labels.Labels
	server string // that it is about; "": none
	value  float64
}

// families collects samples in the order of a table of metrics.
type families struct {
	list   []*family
	byName map[string]*family
}

func newFamilies(metrics []metric) *families {
	fs := &families{byName: make(map[string]*family, len(metrics))}
	for _, m := range metrics {
		f := &family{metric: m}
		fs.list, fs.byName[m.name] = append(fs.list, f), f
	}
	return fs
}

// add appends a sample of the metric. pairs are names and values of labels; those
// without a value are left out.
func (fs *families) add(name, server string, value float64, pairs ...string) {
	fs.addAs(name, name, server, value, pairs)
}

// addAs appends a sample to the metric under another name: a histogram has
// several.
func (fs *families) addAs(metric, name, server string, value float64, pairs []string) {
	ls := make([]labels.Label, 0, len(pairs)/2+1)
	ls = append(ls, labels.Label{Name: nameLabel, Value: name})
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			ls = append(ls, labels.Label{Name: pairs[i], Value: pairs[i+1]})
		}
	}
	f := fs.byName[metric]
	f.samples = append(f.samples, sample{labels: labels.New(ls...), server: server, value: value})
}

// addHistogram appends the samples of a histogram: counts by bucket, the last
// without a bound.
func (fs *families) addHistogram(name, server string, bounds []float64, counts []uint64, sum float64, pairs []string) {
	total := uint64(0)
	for i, n := range counts {
		total += n
		bound := math.Inf(1)
		if i < len(bounds) {
			bound = bounds[i]
		}
		fs.addAs(name, name+"_bucket", server, float64(total), append(slices.Clip(pairs), "le", number(bound)))
	}
	fs.addAs(name, name+"_sum", server, sum, pairs)
	fs.addAs(name, name+"_count", server, float64(total), pairs)
}

// number writes a value as Prometheus does.
func number(v float64) string {
	if math.IsInf(v, 1) {
		return "+Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// text writes the samples in Prometheus' text format, version 0.0.4. Metrics
// without samples are left out.
func (fs *families) text() []byte {
	var b []byte
	help := strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	value := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	for _, f := range fs.list {
		if len(f.samples) == 0 {
			continue
		}
		b = append(b, "# HELP "+f.name+" "+help.Replace(f.help)+"\n# TYPE "+f.name+" "+string(f.kind)+"\n"...)
		for _, s := range f.samples {
			b = append(b, s.labels.Get(nameLabel)...)
			sep := byte('{')
			s.labels.Range(func(l labels.Label) {
				if l.Name == nameLabel {
					return
				}
				b = append(b, sep)
				b = append(b, l.Name+`="`+value.Replace(l.Value)+`"`...)
				sep = ','
			})
			if sep == ',' {
				b = append(b, '}')
			}
			b = append(b, ' ')
			b = append(b, number(s.value)...)
			b = append(b, '\n')
		}
	}
	return b
}
