/** Where a token is optional, this server asks for none: show no locks. */
function withoutLocks(description) {
  const isOptional = ({ security = [] }) => security.some((way) => !Object.keys(way).length);
  const operations = Object.values(description.paths).flatMap(Object.values);
  const open = operations.filter(isOptional);
  open.forEach((operation) => (operation.security = []));
  if (open.length) delete description.components.securitySchemes;
  return description;
}

/** Leave out a body that the page filled in, where a query takes its place. */
function withoutExample(request) {
  if (request.method === "DELETE" && request.url.includes("?") && isExample(request.body)) {
    delete request.body;
    delete request.headers["Content-Type"];
  }
  return request;
}

function isExample(body) {
  const { examples } = page.specSelectors.specJson().get("components").toJS();
  return Object.values(examples).some(({ value }) => JSON.stringify(value, null, 2) === body);
}

const ours = ({ React, getComponent }) => ({
  components: {
    // The page looks for one in lists, and warns on the console that it has none.
    JsonSchema_integer_int64: (props) => React.createElement(getComponent("JsonSchema_string"), props),
  },
  statePlugins: {
    spec: { wrapActions: { updateJsonSpec: (update) => (description) => update(withoutLocks(description)) } },
  },
});

const page = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null,
  plugins: [ours],
  requestInterceptor: withoutExample,
});
