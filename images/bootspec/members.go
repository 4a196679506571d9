package bootspec

// Routes of the management API about etcd's members, of control planes.
const (
	// RouteEtcdMembers are the members, as the quorum knows them (GET, JSON: []EtcdMember).
	RouteEtcdMembers = "/v1/etcd/members"
	// RouteEtcdRemove removes a member (POST; query: id, as RouteEtcdMembers says it). etcd itself refuses what would cost its quorum.
	RouteEtcdRemove = "/v1/etcd/members/remove"
)

// EtcdMember is a member of etcd's cluster.
type EtcdMember struct {
	ID       string   `json:"id"`   // a number
	Name     string   `json:"name"` // empty: it has not started yet
	PeerURLs []string `json:"peerURLs"`
	Learner  bool     `json:"learner,omitempty"`
}
