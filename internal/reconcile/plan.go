package reconcile

import "kiln/internal/model"

// Plan is what a deployment would do.
type Plan struct{}

func (p Plan) String() string { return "" }

// PlanDeploy says what would happen.
func PlanDeploy(s *model.State, snap *model.Snapshot, req DeployRequest, now model.Now) Plan { return Plan{} }
