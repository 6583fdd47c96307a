package reconcile

import (
	"strings"
	"testing"
	"time"

	"kiln/internal/model"
)

// requiring is what production asks of an image that staging serves.
func requiring(image model.Digest, r model.Requirement) DeployRequest {
	return DeployRequest{
		Service: "shop-production", Declared: "shop", Environment: "production",
		Template: model.Template{Service: "shop-production", Environment: "production", Image: image},
		Policy:   model.Policy{Image: &model.ImagePolicy{Require: &r}},
	}
}

// staging is a kiln where the image has been in service in staging since the start.
func staging(image model.Digest) *model.State {
	s := model.NewState()
	s.Instance = "abcdef"
	s.Services["shop-staging"] = &model.Service{
		Name: "shop-staging", InService: 2,
		Releases: []*model.Release{
			{Service: "shop-staging", Environment: "staging", Number: 1, Template: model.Template{Image: image}},
			{Service: "shop-staging", Environment: "staging", Number: 2, Template: model.Template{Image: image, Port: 80}},
		},
		Deployments: []*model.Deployment{
			{ID: "d-one", To: 1, Verdict: model.Succeeded, Switched: true, Started: 0, TookMS: 1000},
			{ID: "d-two", To: 2, Verdict: model.Succeeded, Switched: true, Started: model.Instant(59 * time.Second), TookMS: 1000},
		},
		Left: map[int]model.Instant{1: model.Instant(60 * time.Second)},
	}
	return s
}

// keyOfCI is the id of a key.
const keyOfCI = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestWhatAnImageLacks(t *testing.T) {
	const image, minute = model.Digest("sha256:aaaaaaaaaaaaaaaa"), model.Duration(time.Minute)
	now := model.Now{Elapsed: model.Instant(121 * time.Second)}
	for name, c := range map[string]struct {
		require model.Requirement
		vouched Vouched
		want    []string // beginnings of lines
	}{
		"nothing asked":    {},
		"unsigned":         {require: model.Requirement{Signed: []string{"ci"}}, want: []string{"signed with key ci: "}},
		"signed by name":   {require: model.Requirement{Signed: []string{"ci"}}, vouched: Vouched{Signed: []string{"ci", keyOfCI}}},
		"signed by id":     {require: model.Requirement{Signed: []string{keyOfCI}}, vouched: Vouched{Signed: []string{"ci", keyOfCI}}},
		"by part of an id": {require: model.Requirement{Signed: []string{"0123456789ab"}}, vouched: Vouched{Signed: []string{"ci", keyOfCI}}},
		"by the beginning of a name": {
			require: model.Requirement{Signed: []string{"release-team"}}, vouched: Vouched{Signed: []string{"release-team-guests", keyOfCI}}, want: []string{"signed with key release-team: "},
		},
		"by too little": {require: model.Requirement{Signed: []string{"0123"}}, vouched: Vouched{Signed: []string{"ci", keyOfCI}}, want: []string{"signed with key 0123: "}},
		"checks": {
			require: model.Requirement{Checks: []string{"policy/root", "image/a", "image/b"}},
			vouched: Vouched{Checks: map[string]bool{"policy/root": true, "image/a": false}},
			want:    []string{"passed check image/a: it failed", "passed check image/b: no result"},
		},
		"served long enough, by two releases": {require: model.Requirement{Served: []model.Served{{Environment: "staging", For: 2 * minute}}}},
		"not long enough": {
			require: model.Requirement{Served: []model.Served{{Environment: "staging", For: 3 * minute}}},
			want:    []string{"served in staging for 3m: it did for 2m; 1m to go"},
		},
		"long enough elsewhere": {
			require: model.Requirement{Served: []model.Served{{Environment: "staging", For: 3 * minute}}},
			vouched: Vouched{Served: []Tenure{{Key: "k", Environment: "staging", Service: "shop-staging", For: 4 * minute}}},
		},
		"another service elsewhere": {
			require: model.Requirement{Served: []model.Served{{Environment: "staging", For: 3 * minute}}},
			vouched: Vouched{Served: []Tenure{{Key: "k", Environment: "staging", Service: "till-staging", For: 4 * minute}}},
			want:    []string{"served in staging for 3m: it did for 2m; 1m to go"},
		},
		"not there, and nobody says so": {
			require: model.Requirement{Served: []model.Served{{Environment: "qa", For: minute}}},
			vouched: Vouched{Served: []Tenure{{Key: "k", Environment: "staging", Service: "shop-staging", For: 4 * minute}}},
			want:    []string{"served in qa for 1m: shop-qa is not on this kiln, and no kiln whose key it believes says that the image did (kiln key trust)"},
		},
		"not long enough elsewhere": {
			require: model.Requirement{Served: []model.Served{{Environment: "qa", For: 3 * minute}}},
			vouched: Vouched{Served: []Tenure{{Key: "k", Instance: "ghijkl", Environment: "qa", Service: "shop-qa", For: minute, At: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}}},
			want:    []string{"served in qa for 3m: it had for 1m at 2026-11-21 12:00:00, as kiln ghijkl said last"},
		},
		"approved for something else": {
			require: model.Requirement{Approvals: []string{"ann", "bob"}},
			vouched: Vouched{Approvals: []Approval{{"ann", "production"}, {"bob", "staging"}}},
			want:    []string{"approved by bob: it is not (kiln approve aaaaaaaaaaaa --for production)"},
		},
		"by one of two":       {require: model.Requirement{Approvals: []string{"ann", "bob"}, Approvers: 1}, vouched: Vouched{Approvals: []Approval{{"ann", "production"}}}},
		"by strangers":        {require: model.Requirement{Approvals: []string{"ann", "bob"}, Approvers: 1}, vouched: Vouched{Approvals: []Approval{{"eve", "production"}}}, want: []string{"approved by 1 of ann, bob: it is by 0"}},
		"by anybody":          {require: model.Requirement{Approvers: 1}, vouched: Vouched{Approvals: []Approval{{"eve", "production"}}}},
		"twice by one":        {require: model.Requirement{Approvers: 2}, vouched: Vouched{Approvals: []Approval{{"eve", "production"}, {"eve", "production"}}}, want: []string{"approved by 2: it is by 1"}},
		"all of two by count": {require: model.Requirement{Approvals: []string{"ann", "bob"}, Approvers: 2}, vouched: Vouched{Approvals: []Approval{{"ann", "production"}}}, want: []string{"approved by bob: "}},
	} {
		t.Run(name, func(t *testing.T) {
			req := requiring(image, c.require)
			req.Vouched = c.vouched
			got := lacks(staging(image), req, now)
			if len(got) != len(c.want) {
				t.Fatalf("lacks %q, want %q", got, c.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], c.want[i]) {
					t.Errorf("lacks %q, want %q", got[i], c.want[i])
				}
			}
		})
	}
}

func TestPromotionOfWhatServes(t *testing.T) {
	const image = model.Digest("sha256:aaaaaaaaaaaaaaaa")
	for name, c := range map[string]struct {
		change func(*model.State, *DeployRequest)
		want   string
	}{
		"what serves":      {func(*model.State, *DeployRequest) {}, ""},
		"an older release": {func(_ *model.State, r *DeployRequest) { r.Promoted.Release = 1 }, "release 2 serves there by now"},
		"another image":    {func(_ *model.State, r *DeployRequest) { r.Template.Image = "sha256:bb" }, "release 2 serves there by now"},
		"under way": {func(s *model.State, _ *DeployRequest) {
			s.Services["shop-staging"].Deployment = &model.Deployment{ID: "d-x", To: 3}
		}, "a deployment of shop-staging is under way"},
		"a silent router": {func(s *model.State, _ *DeployRequest) {
			s.Services["shop-staging"].Pending = &model.PendingSwitch{Release: 3}
		}, "a router is silent"},
		"never deployed": {func(s *model.State, _ *DeployRequest) { delete(s.Services, "shop-staging") }, "nothing of it serves there"},
		"of another kiln": {func(s *model.State, r *DeployRequest) {
			r.Promoted.Instance = "ghijkl"
			delete(s.Services, "shop-staging")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, req := staging(image), requiring(image, model.Requirement{})
			req.Promoted = &model.Promotion{Instance: "abcdef", Environment: "staging", Service: "shop-staging", Release: 2}
			c.change(s, &req)
			err := promotable(s, req)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("says %v, want %q", err, c.want)
			}
		})
	}
}

func TestNeverServed(t *testing.T) {
	req := requiring("sha256:bb", model.Requirement{Served: []model.Served{{Environment: "staging", For: model.Duration(time.Minute)}}})
	got := lacks(staging("sha256:aa"), req, model.Now{Elapsed: model.Instant(time.Hour)})
	if len(got) != 1 || got[0] != "served in staging for 1m: it never served there" {
		t.Errorf("lacks %q", got)
	}
}

// An image that has served for less than a second has served.
func TestServedForAMoment(t *testing.T) {
	req := requiring("sha256:aa", model.Requirement{Served: []model.Served{{Environment: "staging", For: model.Duration(time.Minute)}}})
	s := staging("sha256:aa")
	s.Services["shop-staging"].Deployments = s.Services["shop-staging"].Deployments[1:]
	came, _ := cameAt(s.Services["shop-staging"], 2)
	got := lacks(s, req, model.Now{Elapsed: came.Add(time.Millisecond)})
	if len(got) != 1 || got[0] != "served in staging for 1m: it did for 0s; 1m to go" {
		t.Errorf("lacks %q", got)
	}
}

// What was called like a service of the environment before it had environments does
// not count as having served there.
func TestServedInTheEnvironment(t *testing.T) {
	s, now := staging("sha256:aa"), model.Now{Elapsed: model.Instant(121 * time.Second)}
	if got := ServedFor(s, "shop-staging", "staging", "sha256:aa", now); got != 2*time.Minute {
		t.Errorf("served for %s", got)
	}
	s.Services["shop-staging"].Releases[0].Environment = ""
	if got := ServedFor(s, "shop-staging", "staging", "sha256:aa", now); got != 61*time.Second {
		t.Errorf("without the first release: served for %s", got)
	}
	for _, c := range [][3]string{{"shop-staging", "qa", "sha256:aa"}, {"shop-qa", "qa", "sha256:aa"}, {"shop-staging", "staging", "sha256:bb"}} {
		if got := ServedFor(s, c[0], c[1], model.Digest(c[2]), now); got != 0 {
			t.Errorf("%v: served for %s", c, got)
		}
	}
}

func TestLastWordOfEachKiln(t *testing.T) {
	at := func(minutes int) time.Time { return time.Date(2026, 11, 21, 12, minutes, 0, 0, time.UTC) }
	word := func(key string, instance model.InstanceID, minute int, had time.Duration) Tenure {
		return Tenure{Key: key, Instance: instance, Environment: "staging", Service: "shop-staging", For: model.Duration(had), At: at(minute)}
	}
	for name, c := range map[string]struct {
		words []Tenure
		want  time.Duration
	}{
		"none":                       {nil, 0},
		"a later one replaces":       {[]Tenure{word("k", "abcdef", 1, time.Hour), word("k", "abcdef", 2, 2*time.Hour)}, 2 * time.Hour},
		"in any order, also by less": {[]Tenure{word("k", "abcdef", 2, time.Hour), word("k", "abcdef", 1, 2*time.Hour)}, time.Hour},
		"of the same moment":         {[]Tenure{word("k", "abcdef", 1, 2*time.Hour), word("k", "abcdef", 1, time.Hour)}, 2 * time.Hour},
		"the longest of two kilns":   {[]Tenure{word("k", "abcdef", 1, 2*time.Hour), word("l", "ghijkl", 2, time.Hour)}, 2 * time.Hour},
		"nobody speaks for another":  {[]Tenure{word("k", "abcdef", 1, 2*time.Hour), word("l", "abcdef", 2, time.Second)}, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			if got := servedElsewhere(c.words, "shop-staging", "staging").For.D(); got != c.want {
				t.Errorf("served for %s, want %s", got, c.want)
			}
		})
	}
}
