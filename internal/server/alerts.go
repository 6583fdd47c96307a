package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"kiln/internal/api"
	"kiln/internal/model"
)

// Alerts tells receivers what the journal says.
type Alerts interface {
	Standing() api.Alerts
	Test(ctx context.Context, in api.AlertTest) (api.AlertsTested, error)
}

// Words says what an event means in one sentence, and which service it is about
// ("" for none).
func Words(e model.Event) (service, text string) { return inWords(e) }

type alertTestInput struct{ Body api.AlertTest }

func (s *Server) registerAlerts(h huma.API) {
	if s.cfg.Alerts == nil {
		return
	}
	huma.Register(h, operation("alerts", http.MethodGet, api.PathAlerts, "The receivers of alerts"),
		func(context.Context, *struct{}) (*reply[api.Alerts], error) {
			return &reply[api.Alerts]{s.cfg.Alerts.Standing()}, nil
		})
	huma.Register(h, operation("alert-test", http.MethodPost, api.PathAlertTest, "Tell receivers that this is a test"),
		func(ctx context.Context, in *alertTestInput) (*reply[api.AlertsTested], error) {
			out, err := s.cfg.Alerts.Test(ctx, in.Body)
			if err != nil {
				return nil, s.refuse(err)
			}
			return &reply[api.AlertsTested]{out}, nil
		})
}
