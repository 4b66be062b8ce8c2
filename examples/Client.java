// Classifies an image, with Java 17 or newer: java examples/Client.java [IMAGE] [URL]
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;

class Client {
    public static void main(String[] args) throws Exception {
        var image = args.length > 0 ? args[0] : "examples/coffee.jpg";
        var url = args.length > 1 ? args[1] : "http://127.0.0.1:8000";
        var request = HttpRequest.newBuilder(URI.create(url + "/predict?top_k=3"))
            .header("Content-Type", "image/jpeg")  // the format is detected; any image/* is accepted
            .POST(BodyPublishers.ofFile(Path.of(image)))
            .build();
        var response = HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
        System.out.println(response.body());
        System.exit(response.statusCode() == 200 ? 0 : 1);
    }
}
