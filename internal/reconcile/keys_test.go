package reconcile

import (
	"testing"
	"time"

	"kiln/internal/model"
)

// keyed is a state in which things happened to keys, in order.
func keyed(t *testing.T, news ...model.Payload) *model.State {
	t.Helper()
	s := model.NewState()
	for i, p := range news {
		e := model.Event{Seq: uint64(i) + 1, Epoch: 1, At: time.Unix(int64(1000*(i+1)), 0).UTC(), Elapsed: model.Instant(i), Data: p}
		if err := s.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func ownKey(name string) model.SigningKey {
	return model.SigningKey{Name: name, ID: "id-" + name, PEM: name, Own: true}
}

func othersKey(name string) model.SigningKey {
	return model.SigningKey{Name: name, ID: "id-" + name, PEM: name}
}

// TestKeysAreRefused: each mistake with a key is named, and changes nothing.
func TestKeysAreRefused(t *testing.T) {
	now := model.Now{Wall: time.Unix(1e6, 0).UTC()}
	at := time.Unix(5e5, 0).UTC()
	s := keyed(t,
		model.KeyTrusted{Key: ownKey("kiln-1")}, model.KeyRotated{Key: ownKey("kiln-2"), Reason: "rotated"},
		model.KeyTrusted{Key: othersKey("ci")}, model.KeyTrusted{Key: othersKey("lost")},
		model.KeyRevoked{Name: "lost", Revoked: model.Revoked{Reason: "stolen", By: "ann"}})
	for name, c := range map[string]struct {
		ask  func() ([]model.Payload, error)
		want model.Code
	}{
		"no name":       {func() ([]model.Payload, error) { return TrustKey(s, othersKey(""), "") }, model.Invalid},
		"a number":      {func() ([]model.Payload, error) { return TrustKey(s, othersKey("1st"), "") }, model.Invalid},
		"a line":        {func() ([]model.Payload, error) { return TrustKey(s, othersKey("a\nb"), "") }, model.Invalid},
		"own":           {func() ([]model.Payload, error) { return TrustKey(s, ownKey("kiln-1"), "") }, model.Conflict},
		"a revoked one": {func() ([]model.Payload, error) { return TrustKey(s, othersKey("lost"), "") }, model.Conflict},
		"two names":     {func() ([]model.Payload, error) { k := othersKey("ci"); k.Name = "cd"; return TrustKey(s, k, "") }, model.Conflict},
		"two keys":      {func() ([]model.Payload, error) { k := othersKey("ci"); k.ID = "x"; return TrustKey(s, k, "") }, model.Conflict},
		"ends first": {func() ([]model.Payload, error) {
			k := othersKey("cd")
			k.NotBefore, k.NotAfter = now.Wall, at
			return TrustKey(s, k, "")
		}, model.Invalid},
		"distrust own":       {func() ([]model.Payload, error) { return DistrustKey(s, "kiln-1", "") }, model.Precondition},
		"distrust none":      {func() ([]model.Payload, error) { return DistrustKey(s, "bob", "") }, model.NotFound},
		"forget a revoked":   {func() ([]model.Payload, error) { return DistrustKey(s, "lost", "") }, model.Precondition},
		"revoke the present": {func() ([]model.Payload, error) { return RevokeKey(s, "kiln-2", model.Revoked{Reason: "r"}, now) }, model.Precondition},
		"no reason":          {func() ([]model.Payload, error) { return RevokeKey(s, "ci", model.Revoked{}, now) }, model.Invalid},
		"the future": {func() ([]model.Payload, error) {
			return RevokeKey(s, "ci", model.Revoked{Reason: "r", Since: now.Wall.Add(1)}, now)
		}, model.Invalid},
		"revoke none": {func() ([]model.Payload, error) { return RevokeKey(s, "bob", model.Revoked{Reason: "r"}, now) }, model.NotFound},
	} {
		if events, err := c.ask(); model.CodeOf(err) != c.want || events != nil {
			t.Errorf("%s: got %v, %v; want %s", name, events, err, c.want)
		}
	}
}

// TestKeysChange: what is asked for follows, once.
func TestKeysChange(t *testing.T) {
	now := model.Now{Wall: time.Unix(1e6, 0).UTC()}
	s := keyed(t, model.KeyTrusted{Key: ownKey("kiln-1")}, model.KeyRotated{Key: ownKey("kiln-2"), Reason: "rotated"}, model.KeyTrusted{Key: othersKey("ci")})
	if events, err := TrustKey(s, othersKey("ci"), ""); err != nil || events != nil {
		t.Errorf("trusted again: %v, %v", events, err)
	}
	if events, err := TrustKey(s, othersKey("cd"), "r"); err != nil || len(events) != 1 {
		t.Errorf("trusted: %v, %v", events, err)
	}
	if events, err := DistrustKey(s, "id-ci", ""); err != nil || len(events) != 1 {
		t.Errorf("distrusted by id: %v, %v", events, err)
	}
	late := model.Revoked{Reason: "r", Since: time.Unix(9e5, 0).UTC()}
	events, err := RevokeKey(s, "kiln-1", late, now)
	if err != nil || len(events) != 1 {
		t.Fatalf("revoked a former key: %v, %v", events, err)
	}
	s = keyed(t, model.KeyTrusted{Key: othersKey("ci")}, model.KeyRevoked{Name: "ci", Revoked: late})
	if events, err := RevokeKey(s, "ci", late, now); err != nil || events != nil {
		t.Errorf("revoked again: %v, %v", events, err)
	}
	if events, err := RevokeKey(s, "ci", model.Revoked{Reason: "r"}, now); err != nil || len(events) != 1 {
		t.Errorf("revoked from earlier on: %v, %v", events, err)
	}
}

// TestRotatedKeysKeepWhatTheySigned: the use of a former key ends after all that the
// journal has of it, even where the clock went back; and a key may come back.
func TestRotatedKeysKeepWhatTheySigned(t *testing.T) {
	late := time.Unix(1e5, 0).UTC()
	s := keyed(t, model.KeyTrusted{Key: ownKey("kiln-1")}, model.ImageAdded{Image: model.Image{Digest: "sha256:aa", Statements: []model.Statement{
		{Bundle: "sha256:bb", Key: "id-kiln-1", At: late},
	}}}, model.KeyRotated{Key: ownKey("kiln-2"), Reason: "rotated"})
	was := s.Key("kiln-1")
	if !was.NotAfter.After(late) || was.Ended != "rotated" {
		t.Errorf("the former key is %+v", was)
	}
	if own := s.OwnKey(); own == nil || own.Name != "kiln-2" {
		t.Errorf("the own key is %+v", own)
	}
	if err := s.Apply(model.Event{Seq: 4, Epoch: 1, At: late, Data: model.KeyRotated{Key: model.SigningKey{Name: "kiln-3", ID: "id-kiln-1"}, Reason: "back"}}); err != nil {
		t.Fatal(err)
	}
	if own := s.OwnKey(); own == nil || own.Name != "kiln-1" || !own.NotAfter.IsZero() || len(s.Keys) != 2 {
		t.Errorf("the key that came back is %+v of %d", own, len(s.Keys))
	}
}
