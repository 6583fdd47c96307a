package leaks

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// searchConfig searches what an image says of itself: whoever pulls it reads that
// first. Of the history what the base's layers came with is left out.
func (s *search) searchConfig(config *v1.ConfigFile, base int) {
	c := config.Config
	for _, v := range c.Env {
		name, value, _ := strings.Cut(v, "=")
		s.judgeNamed("env:"+name, name, value)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Labels)) {
		s.judgeNamed("label:"+name, name, c.Labels[name])
	}
	words := slices.Concat(c.Entrypoint, c.Cmd, c.OnBuild, c.Shell)
	if c.Healthcheck != nil {
		words = append(words, c.Healthcheck.Test...)
	}
	s.judgeWords("command", strings.Join(words, "\n"))
	for i, h := range ownHistory(config.History, base) {
		s.judgeWords(fmt.Sprintf("history:%d", i+1), h.CreatedBy+"\n"+h.Comment+"\n"+h.Author)
	}
}

// ownHistory returns the history by its index, that of the base's layers blanked.
func ownHistory(history []v1.History, base int) []v1.History {
	own := slices.Clone(history)
	for i := 0; i < len(own) && base > 0; i++ {
		if !own[i].EmptyLayer {
			base--
		}
		own[i] = v1.History{}
	}
	return own
}

// judgeNamed judges a value by the name it has, and by itself.
func (s *search) judgeNamed(path, name, value string) {
	if s.judgeText(path, value) {
		return
	}
	if secretName(name) && opens(value) && !strings.HasPrefix(value, "sha256:") {
		s.tell(path, fmt.Sprintf("a value that its name says is a secret, %s", masked([]byte(value))))
	}
}

// judgeWords judges an instruction or a command. The arguments of a build are in
// its history: |1 NPM_TOKEN=… /bin/sh -c npm ci.
func (s *search) judgeWords(path, text string) {
	if s.judgeText(path, text) {
		return
	}
	for _, l := range assignedSecrets([]byte(text)) {
		s.tell(path, l.what)
	}
}

// judgeText finds keys, tokens and URLs with a password, and reports whether there
// are any.
func (s *search) judgeText(path, text string) bool {
	hits := s.hits([]byte(text), 0, len(text))
	for _, h := range hits {
		s.add(Finding{Rule: h.rule, Layer: Configuration, Path: path, What: h.what})
	}
	if password, ok := passwordInURL(text); ok {
		s.tell(path, fmt.Sprintf("a password in a URL, %s", masked([]byte(password))))
		return true
	}
	return len(hits) > 0
}

func (s *search) tell(path, what string) {
	s.add(Finding{Rule: ruleConfig, Layer: Configuration, Path: path, What: what})
}
