package spec

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"kiln/internal/model"
)

// reader gathers what is wrong while a declaration is read.
type reader struct {
	*source
	diags    Diagnostics
	warnings Diagnostics
}

func (r *reader) errorf(at Position, hint, format string, args ...any) {
	r.diags = append(r.diags, r.diagnose(at, hint, format, args...))
}

// warnf tells what is allowed and not advised.
func (r *reader) warnf(at Position, hint, format string, args ...any) {
	d := r.diagnose(at, hint, format, args...)
	d.Warning = true
	r.warnings = append(r.warnings, d)
}

// body reads one block. Each accessor leaves its target as it is where the
// attribute is absent or wrong; done then reports what no accessor asked for.
type body struct {
	*reader
	where  string // "service \"shop\"", for messages
	header Position
	syntax *hclsyntax.Body
	attrs  []string // that accessors asked for
	blocks []string
}

func (r *reader) body(where string, header Position, syntax *hclsyntax.Body) *body {
	return &body{reader: r, where: where, header: header, syntax: syntax}
}

// attr returns the attribute, or nil.
func (b *body) attr(name string) *hclsyntax.Attribute {
	if !slices.Contains(b.attrs, name) {
		b.attrs = append(b.attrs, name)
	}
	return b.syntax.Attributes[name]
}

// has reports whether the attribute is declared, rightly or wrongly.
func (b *body) has(name string) bool { return b.attr(name) != nil }

// at returns where the attribute's value stands, or the block's header.
func (b *body) at(name string) Position {
	if a := b.syntax.Attributes[name]; a != nil {
		return b.position(a.Expr.Range())
	}
	return b.header
}

// value evaluates the attribute; false: absent, or wrong and reported.
func (b *body) value(name string) (cty.Value, bool) {
	a := b.attr(name)
	if a == nil {
		return cty.NilVal, false
	}
	v, diags := a.Expr.Value(nil)
	if diags.HasErrors() {
		b.diags = append(b.diags, b.fromHCL(diags)...)
		return cty.NilVal, false
	}
	if v.IsNull() || !v.IsWhollyKnown() {
		b.errorf(b.at(name), "leave the line out for the default", "%s has no value", name)
		return cty.NilVal, false
	}
	return v, true
}

func (b *body) str(name string, into *string) bool {
	v, ok := b.value(name)
	if !ok {
		return false
	}
	if v.Type() != cty.String {
		hint := ""
		if text, ok := scalar(v); ok {
			hint = "write it in quotes: " + strconv.Quote(text)
		}
		b.errorf(b.at(name), hint, "%s takes a text, not %s", name, kindOf(v))
		return false
	}
	*into = v.AsString()
	return true
}

func (b *body) boolean(name string, into *bool) {
	v, ok := b.value(name)
	if !ok {
		return
	}
	if v.Type() != cty.Bool {
		b.errorf(b.at(name), "", "%s takes true or false, not %s", name, kindOf(v))
		return
	}
	*into = v.True()
}

// number reads a number between low and high.
func (b *body) number(name string, low, high float64) (*big.Float, bool) {
	v, ok := b.value(name)
	if !ok {
		return nil, false
	}
	if v.Type() != cty.Number {
		hint := ""
		if v.Type() == cty.String {
			if _, err := strconv.ParseFloat(v.AsString(), 64); err == nil {
				hint = "write it without quotes: " + v.AsString()
			}
		}
		b.errorf(b.at(name), hint, "%s takes a number, not %s", name, kindOf(v))
		return nil, false
	}
	n := v.AsBigFloat()
	if n.Cmp(big.NewFloat(low)) < 0 || n.Cmp(big.NewFloat(high)) > 0 {
		b.errorf(b.at(name), "", "%s is between %s and %s", name, plain(low), plain(high))
		return nil, false
	}
	return n, true
}

func (b *body) integer(name string, low, high int, into *int) {
	n, ok := b.number(name, float64(low), float64(high))
	if !ok {
		return
	}
	if !n.IsInt() {
		b.errorf(b.at(name), "", "%s takes a whole number", name)
		return
	}
	v, _ := n.Int64()
	*into = int(v)
}

// duration reads a duration of at least low.
func (b *body) duration(name string, low model.Duration, into *model.Duration) {
	text, ok := b.quantity(name, "a duration with a unit", "s")
	if !ok {
		return
	}
	d, hint, ok := parseDuration(text)
	switch {
	case !ok:
		b.errorf(b.at(name), hint, "%s: %q is not a duration", name, text)
	case d < low:
		b.errorf(b.at(name), "", "%s is at least %s", name, low)
	default:
		*into = d
	}
}

// size reads a size in bytes of at least low.
func (b *body) size(name string, low int64, into *int64) {
	text, ok := b.quantity(name, "a size with a unit", "MiB")
	if !ok {
		return
	}
	n, hint, ok := parseSize(text)
	switch {
	case !ok:
		b.errorf(b.at(name), hint, "%s: %q is not a size", name, text)
	case n < low:
		b.errorf(b.at(name), "", "%s is at least %s", name, Size(low))
	default:
		*into = n
	}
}

// quantity returns the text of a value with a unit; a bare number gets a hint.
func (b *body) quantity(name, what, unit string) (string, bool) {
	v, ok := b.value(name)
	if !ok {
		return "", false
	}
	if v.Type() == cty.String {
		return v.AsString(), true
	}
	hint := ""
	if text, ok := scalar(v); ok && v.Type() == cty.Number {
		hint = "write the unit: " + strconv.Quote(text+unit)
	}
	b.errorf(b.at(name), hint, "%s takes %s, not %s", name, what, kindOf(v))
	return "", false
}

// words reads a list of texts, as of a command.
func (b *body) words(name string, into *[]string) {
	v, ok := b.value(name)
	if !ok {
		return
	}
	if v.Type() == cty.String {
		b.errorf(b.at(name), commandHint(name, v.AsString()), "%s takes a list of words, not a text", name)
		return
	}
	if !v.Type().IsTupleType() && !v.Type().IsListType() {
		b.errorf(b.at(name), `write it as ["/app", "--flag"]`, "%s takes a list of words, not %s", name, kindOf(v))
		return
	}
	var words []string
	for it := v.ElementIterator(); it.Next(); {
		_, e := it.Element()
		text, ok := scalar(e)
		if !ok {
			b.errorf(b.at(name), "", "%s takes a list of words; one of them is %s", name, kindOf(e))
			return
		}
		words = append(words, text)
	}
	if len(words) == 0 || words[0] == "" {
		b.errorf(b.at(name), "leave the line out for the default", "%s is empty", name)
		return
	}
	*into = words
}

func commandHint(name, text string) string {
	fields := strings.Fields(text)
	if len(fields) == 0 || strings.ContainsAny(text, `|&;<>$"'*`+"`") {
		return fmt.Sprintf("write %s = [\"/bin/sh\", \"-c\", %q]", name, text)
	}
	for i := range fields {
		fields[i] = strconv.Quote(fields[i])
	}
	return fmt.Sprintf("write %s = [%s]", name, strings.Join(fields, ", "))
}

// texts reads a map of texts.
func (b *body) texts(name string, into *map[string]string) {
	v, ok := b.value(name)
	if !ok {
		return
	}
	if !v.Type().IsObjectType() && !v.Type().IsMapType() {
		b.errorf(b.at(name), fmt.Sprintf("write %s = { KEY = \"value\" }, each key on a line of its own", name), "%s takes a map, not %s", name, kindOf(v))
		return
	}
	m := map[string]string{}
	for it := v.ElementIterator(); it.Next(); {
		key, e := it.Element()
		text, ok := scalar(e)
		if !ok {
			b.errorf(b.at(name), "", "%s: the value of %q is %s, not a text", name, key.AsString(), kindOf(e))
			continue
		}
		m[key.AsString()] = text
	}
	if len(m) > 0 {
		*into = m
	}
}

// names reads a list of texts, none of them twice.
func (b *body) names(name string, into *[]string) {
	v, ok := b.value(name)
	if !ok {
		return
	}
	if v.Type() == cty.String {
		b.errorf(b.at(name), fmt.Sprintf("write %s = [%q]", name, v.AsString()), "%s takes a list of names, not a text", name)
		return
	}
	if !v.Type().IsTupleType() && !v.Type().IsListType() {
		b.errorf(b.at(name), "write it as [\"db\"]", "%s takes a list of names, not %s", name, kindOf(v))
		return
	}
	var list []string
	for it := v.ElementIterator(); it.Next(); {
		_, e := it.Element()
		if e.IsNull() || e.Type() != cty.String {
			b.errorf(b.at(name), "", "%s takes a list of names; one of them is %s", name, kindOf(e))
			return
		}
		if slices.Contains(list, e.AsString()) {
			b.errorf(b.at(name), "take one of them out", "%s names %q a second time", name, e.AsString())
			continue
		}
		list = append(list, e.AsString())
	}
	*into = list
}

// children returns the blocks of a type in the order of the file.
func (b *body) children(kind string) []*hclsyntax.Block {
	b.blocks = append(b.blocks, kind)
	var out []*hclsyntax.Block
	for _, c := range b.syntax.Blocks {
		if c.Type == kind {
			out = append(out, c)
		}
	}
	return out
}

// child returns the only block of a type, or nil; a second one is reported.
func (b *body) child(kind string) *body {
	all := b.children(kind)
	if len(all) == 0 {
		return nil
	}
	for _, again := range all[1:] {
		b.errorf(b.position(again.TypeRange), "", "%s has a second %s block; the first is on line %d", b.where, kind, all[0].TypeRange.Start.Line)
	}
	if labels := b.labels(all[0], 0, kind+" {"); labels == nil {
		return nil
	}
	return b.inside(all[0], kind)
}

// inside reads a block within this one.
func (b *body) inside(block *hclsyntax.Block, name string) *body {
	return b.body(name+" of "+b.where, b.position(block.TypeRange), block.Body)
}

// labels returns the block's labels where there are as many as wanted, else
// nil, and says how to write it.
func (b *body) labels(block *hclsyntax.Block, want int, form string) []string {
	if len(block.Labels) == want {
		return append([]string{}, block.Labels...)
	}
	at := b.position(block.TypeRange)
	if len(block.Labels) > want {
		at = b.position(block.LabelRanges[want])
	}
	b.errorf(at, "write "+form, "%s takes %d %s", block.Type, want, plural(want, "label"))
	return nil
}

// done reports every attribute and block that no accessor asked for.
func (b *body) done() {
	for _, a := range b.syntax.Attributes {
		if slices.Contains(b.attrs, a.Name) {
			continue
		}
		at := b.position(a.NameRange)
		if slices.Contains(b.blocks, a.Name) {
			b.errorf(at, "write "+a.Name+" { … } without \"=\"", "%s is a block of %s, not an attribute", a.Name, b.where)
			continue
		}
		b.unknown(at, a.Name, "attribute")
	}
	for _, c := range b.syntax.Blocks {
		if slices.Contains(b.blocks, c.Type) {
			continue
		}
		at := b.position(c.TypeRange)
		if slices.Contains(b.attrs, c.Type) {
			b.errorf(at, "write "+c.Type+" = …", "%s is an attribute of %s, not a block", c.Type, b.where)
			continue
		}
		b.unknown(at, c.Type, "block")
	}
}

func (b *body) unknown(at Position, name, what string) {
	if use := notYet(name); use != "" {
		b.errorf(at, "take it out", "%s (%s) is not available in this version", name, use)
		return
	}
	known := append(slices.Clone(b.attrs), b.blocks...)
	hint := ""
	if other := otherName(name); slices.Contains(known, other) {
		hint = fmt.Sprintf("did you mean %q?", other)
	} else if place := elsewhere(name); place != "" && !slices.Contains(known, name) {
		hint = "it is written " + place
	} else if hint = didYouMean(name, known); hint == "" {
		slices.Sort(known)
		hint = "known here: " + strings.Join(slices.Compact(known), ", ")
	}
	b.errorf(at, hint, "unknown %s %q in %s", what, name, b.where)
}

// scalar returns the text of a text, number or truth value. Numbers too large
// to mean anything are refused: their decimals would fill the memory.
func scalar(v cty.Value) (string, bool) {
	if v.IsNull() || !v.IsKnown() {
		return "", false
	}
	switch v.Type() {
	case cty.String:
		return v.AsString(), true
	case cty.Bool:
		return strconv.FormatBool(v.True()), true
	case cty.Number:
		n := v.AsBigFloat()
		if n.IsInf() || n.MantExp(nil) > 64 || n.MantExp(nil) < -64 {
			return "", n.Sign() == 0
		}
		return n.Text('f', -1), true
	}
	return "", false
}

func kindOf(v cty.Value) string {
	t := v.Type()
	switch {
	case v.IsNull():
		return "null"
	case t == cty.String:
		return "a text"
	case t == cty.Number:
		return "a number"
	case t == cty.Bool:
		return "true or false"
	case t.IsTupleType() || t.IsListType() || t.IsSetType():
		return "a list"
	default:
		return "a map"
	}
}

func plain(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// nestedDeeper reports where brackets nest deeper than limit: the parser is
// recursive, and no declaration needs it.
func nestedDeeper(tokens hclsyntax.Tokens, limit int) *hcl.Range {
	depth := 0
	for i, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc:
			depth--
		}
		if depth > limit {
			return &tokens[i].Range
		}
	}
	return nil
}
