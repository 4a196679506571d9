package pki

import (
	"encoding/base64"
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/slipway-os/slipway/profiles/cluster"
)

// kubeconfig is the part of Kubernetes' kubeconfig (client-go, tools/clientcmd/api/v1) that we write.
type kubeconfig struct {
	APIVersion     string         `yaml:"apiVersion"`
	Kind           string         `yaml:"kind"`
	Clusters       []namedCluster `yaml:"clusters"`
	Users          []namedUser    `yaml:"users"`
	Contexts       []namedContext `yaml:"contexts"`
	CurrentContext string         `yaml:"current-context"`
}

type namedCluster struct {
	Name    string `yaml:"name"`
	Cluster struct {
		Server               string `yaml:"server"`
		CertificateAuthority string `yaml:"certificate-authority-data"`
	} `yaml:"cluster"`
}

type namedUser struct {
	Name string `yaml:"name"`
	User struct {
		Certificate string `yaml:"client-certificate-data"`
		Key         string `yaml:"client-key-data"`
	} `yaml:"user"`
}

type namedContext struct {
	Name    string `yaml:"name"`
	Context struct {
		Cluster string `yaml:"cluster"`
		User    string `yaml:"user"`
	} `yaml:"context"`
}

// Kubeconfig makes a client certificate of the cluster's authority and a kubeconfig that holds it.
// Server is a URL, user the kubeconfig's name for the certificate.
func (id *Identity) Kubeconfig(server, user string, l Leaf, env Environment) ([]byte, error) {
	l.Client = true
	pair, err := id.CA.Issue(l, env)
	if err != nil {
		return nil, err
	}
	base := base64.StdEncoding.EncodeToString
	k := kubeconfig{
		APIVersion: "v1", Kind: "Config", Clusters: make([]namedCluster, 1), Users: make([]namedUser, 1), Contexts: make([]namedContext, 1),
		CurrentContext: user + "@" + id.Cluster,
	}
	k.Clusters[0].Name = id.Cluster
	k.Clusters[0].Cluster.Server = server
	k.Clusters[0].Cluster.CertificateAuthority = base(id.Trusted())
	k.Users[0].Name = user
	k.Users[0].User.Certificate, k.Users[0].User.Key = base(pair.Certificate), base(pair.Key)
	k.Contexts[0].Name = k.CurrentContext
	k.Contexts[0].Context.Cluster, k.Contexts[0].Context.User = id.Cluster, user
	data, err := yaml.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("cannot write kubeconfig of %s: %w", user, err)
	}
	return data, nil
}

// AdminKubeconfig is a kubeconfig that may do everything, valid for AdminLifetime. Nobody can take it back before that
// but by making a new identity: keep it like the identity.
func (id *Identity) AdminKubeconfig(c *cluster.Cluster, env Environment) ([]byte, error) {
	if err := id.belongs(c); err != nil {
		return nil, err
	}
	return id.Kubeconfig("https://"+c.Endpoint(), "admin",
		Leaf{CommonName: "slipway:admin", Organization: []string{"system:masters"}, Lifetime: AdminLifetime}, env)
}

// belongs says whether the identity is that of the cluster.
func (id *Identity) belongs(c *cluster.Cluster) error {
	if id.Cluster != c.Metadata.Name {
		return fmt.Errorf("the identity was made for cluster %q, the document's is %q (use its own identity folder)", id.Cluster, c.Metadata.Name)
	}
	return nil
}
