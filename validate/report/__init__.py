"""Reports: the verdict and its checks, as JSON, HTML, Markdown and JUnit."""
